//! A TCP proxy that breaks the network on purpose.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Bytes that are forwarded at once.
const CHUNK: usize = 16 << 10;
/// How often a connection that is held back looks whether it may go on.
const LOOK: Duration = Duration::from_millis(5);

/// What the proxy does to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Forwards.
    None,
    /// Forwards each chunk after this long.
    Latency(Duration),
    /// Closes all connections, and new ones at once.
    Cut,
    /// Keeps connections, and takes new ones, but forwards nothing either way.
    BlackHole,
    /// Forwards what clients send, and nothing that servers answer.
    HalfOpen,
    /// Forwards so many bytes per second, of each connection and way.
    Throttle(u32),
}

/// A proxy before one server; it ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    fault: Fault,
    closed: bool,
    connections: Vec<(TcpStream, TcpStream)>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// No port can be had.
    pub fn to(server: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            server,
            state: Mutex::new(State {
                fault: Fault::None,
                closed: false,
                connections: Vec::new(),
            }),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || serving.serve(&listener));
        Ok(Self { address, shared })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks or mends the network, from now on. Connections that were cut stay closed.
    pub fn set(&self, fault: Fault) {
        let mut state = self.shared.lock();
        state.fault = fault;
        if fault == Fault::Cut {
            state.cut();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.closed = true;
            state.cut();
        }
        // Wakes the listener, which then sees that it is over.
        TcpStream::connect(self.address).ok();
    }
}

impl State {
    fn cut(&mut self) {
        for (client, server) in self.connections.drain(..) {
            // Either end may have gone already.
            client.shutdown(Shutdown::Both).ok();
            server.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.lock().closed {
                return;
            }
            // A connection that fails at once is one that the client sees fail.
            if let Ok(client) = client {
                self.connect(client).ok();
            }
        }
    }

    fn connect(self: &Arc<Self>, client: TcpStream) -> std::io::Result<()> {
        if self.lock().fault == Fault::Cut {
            return Ok(());
        }
        let server = TcpStream::connect(self.server)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let pair = (client.try_clone()?, server.try_clone()?);
        {
            let mut state = self.lock();
            state
                .connections
                .retain(|(client, _)| client.peer_addr().is_ok());
            state.connections.push(pair);
        }
        let there = (client.try_clone()?, server.try_clone()?);
        let (one, other) = (Arc::clone(self), Arc::clone(self));
        std::thread::spawn(move || one.forward(there.0, there.1, false));
        std::thread::spawn(move || other.forward(server, client, true));
        Ok(())
    }

    /// Copies one way until either end closes.
    fn forward(&self, mut from: TcpStream, mut to: TcpStream, is_answer: bool) {
        let mut chunk = [0; CHUNK];
        while let Ok(n @ 1..) = from.read(&mut chunk) {
            if !self.hold(n, is_answer) || to.write_all(&chunk[..n]).is_err() {
                break;
            }
        }
        // The other way ends too; either end may have gone already.
        from.shutdown(Shutdown::Both).ok();
        to.shutdown(Shutdown::Both).ok();
    }

    /// Waits until `n` bytes may go on; `false` if they never may.
    fn hold(&self, n: usize, is_answer: bool) -> bool {
        loop {
            let (fault, closed) = {
                let state = self.lock();
                (state.fault, state.closed)
            };
            if closed {
                return false;
            }
            match fault {
                Fault::None => return true,
                Fault::Cut => return false,
                Fault::HalfOpen if !is_answer => return true,
                Fault::Latency(latency) => {
                    std::thread::sleep(latency);
                    return true;
                }
                Fault::Throttle(rate) => {
                    let seconds = n as f64 / f64::from(rate.max(1));
                    std::thread::sleep(Duration::from_secs_f64(seconds));
                    return true;
                }
                Fault::BlackHole | Fault::HalfOpen => std::thread::sleep(LOOK),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers each byte with itself.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || {
                    let mut reader = stream.try_clone().unwrap();
                    let mut writer = stream;
                    std::io::copy(&mut reader, &mut writer).ok();
                });
            }
        });
        address
    }

    fn ask(stream: &mut TcpStream) -> std::io::Result<u8> {
        let mut answer = [0];
        stream.write_all(b"x")?;
        stream.read_exact(&mut answer)?;
        Ok(answer[0])
    }

    fn connect(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.address()).unwrap();
        let soon = Some(Duration::from_millis(200));
        stream.set_read_timeout(soon).unwrap();
        stream
    }

    #[test]
    fn a_cut_closes_connections_and_refuses_new_ones_until_mended() {
        let proxy = Proxy::to(echo()).unwrap();
        let mut before = connect(&proxy);
        assert_eq!(ask(&mut before).unwrap(), b'x');
        proxy.set(Fault::Cut);
        assert!(ask(&mut before).is_err());
        assert!(ask(&mut connect(&proxy)).is_err());
        proxy.set(Fault::None);
        assert_eq!(ask(&mut connect(&proxy)).unwrap(), b'x');
    }

    #[test]
    fn a_black_hole_keeps_what_was_sent_until_mended() {
        let proxy = Proxy::to(echo()).unwrap();
        let mut stream = connect(&proxy);
        for fault in [Fault::BlackHole, Fault::HalfOpen] {
            proxy.set(fault);
            assert!(
                ask(&mut stream).is_err(),
                "{fault:?} lets an answer through"
            );
            proxy.set(Fault::None);
            let mut answer = [0];
            stream.read_exact(&mut answer).unwrap();
        }
        assert_eq!(ask(&mut stream).unwrap(), b'x');
    }
}
