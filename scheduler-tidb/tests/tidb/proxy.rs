//! A proxy that knows a COMMIT when it sees one, and breaks the network just before or after it.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
};

/// What becomes of the next COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Break {
    /// The connection ends, and the server never sees it.
    Before,
    /// It waits for [`Proxy::let_go`], and goes on as if nothing had happened.
    HeldBefore,
    /// The server has done it; the connection ends without the answer.
    After,
    /// The server has done it; then the connection waits for [`Proxy::let_go`], and ends.
    HeldAfter,
    /// The server has done it; then nothing gets through any more, on no connection.
    HoleAfter,
}

/// A proxy before one server. It lives as long as the runtime of its test.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    server: String,
    breaks: Mutex<VecDeque<Break>>,
    is_hole: watch::Sender<bool>,
    held: Notify,
    let_go: Notify,
}

impl Proxy {
    /// Before the server of this URL.
    pub(crate) async fn before(url: &str) -> Self {
        let (_, server) = url.rsplit_once('@').unwrap();
        let shared = Arc::new(Shared {
            server: server.trim_end_matches('/').to_owned(),
            breaks: Mutex::default(),
            is_hole: watch::Sender::new(false),
            held: Notify::new(),
            let_go: Notify::new(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                tokio::spawn(async move { Box::pin(shared.serve(client)).await });
            }
        });
        Self { address, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("mysql://root@{}", self.address)
    }

    /// Breaks the next COMMIT that has not been told another fate.
    pub(crate) fn break_next(&self, what: Break) {
        self.shared.breaks.lock().unwrap().push_back(what);
    }

    /// From now on nothing gets through, either way, on no connection; or everything does again.
    pub(crate) fn set_hole(&self, is_hole: bool) {
        self.shared.is_hole.send_replace(is_hole);
    }

    /// Waits until a COMMIT is held.
    pub(crate) async fn held(&self) {
        self.shared.held.notified().await;
    }

    /// Ends what is held.
    pub(crate) fn let_go(&self) {
        self.shared.let_go.notify_one();
    }

    /// Whether all breaks have happened.
    pub(crate) fn is_spent(&self) -> bool {
        self.shared.breaks.lock().unwrap().is_empty()
    }
}

impl Shared {
    /// Forwards one connection until either end closes it or a break does.
    async fn serve(&self, mut client: TcpStream) {
        self.no_hole().await;
        let Ok(mut server) = TcpStream::connect(&self.server).await else {
            return;
        };
        let (mut asked, mut answered) = ([0; 16 << 10], [0; 16 << 10]);
        let mut breaking = None;
        loop {
            tokio::select! {
                n = client.read(&mut asked) => {
                    let Ok(n @ 1..) = n else { return };
                    self.no_hole().await;
                    if asked[..n].ends_with(b"\x03COMMIT") {
                        breaking = self.breaks.lock().unwrap().pop_front();
                    }
                    if breaking == Some(Break::HeldBefore) {
                        breaking = None;
                        self.held.notify_one();
                        self.let_go.notified().await;
                    }
                    if breaking == Some(Break::Before) || server.write_all(&asked[..n]).await.is_err() {
                        return;
                    }
                }
                n = server.read(&mut answered) => {
                    let Ok(n @ 1..) = n else { return };
                    match breaking {
                        Some(Break::Before | Break::HeldBefore | Break::After) => return,
                        Some(Break::HeldAfter) => {
                            self.held.notify_one();
                            self.let_go.notified().await;
                            return;
                        }
                        Some(Break::HoleAfter) => {
                            self.is_hole.send_replace(true);
                        }
                        None => {}
                    }
                    self.no_hole().await;
                    if client.write_all(&answered[..n]).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn no_hole(&self) {
        let mut is_hole = self.is_hole.subscribe();
        is_hole.wait_for(|is_hole| !is_hole).await.ok();
    }
}
