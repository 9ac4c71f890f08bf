//! The calls over one stream, which is opened again when it breaks.
//!
//! The worker polls as ever. A poll opens the stream if there is none, with the leases that it names; on an open one it
//! says what the worker has seen and can take, if that is news, and waits for what comes. While there is no stream,
//! reports and heartbeats go one by one.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use scheduler_core::{Error, Heartbeat, Leased, PipelinePath, Poll, Report};
use scheduler_grpc::client::Work;
use tokio::time::{Instant, timeout};

use super::{
    Transport, Unary,
    line::{Line, Polled},
    near::{Near, Place},
};

/// How long a server that knows no streams is not asked for one again.
const OLDER_FOR: Duration = Duration::from_secs(300);
/// How long the server may take to end a stream that the worker has left.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// The calls over a stream, if the server knows streams.
#[derive(Debug)]
pub(crate) struct Streamed {
    path: PipelinePath,
    /// Chooses where to open streams, if the worker is not to stay where it began.
    near: Option<Near>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Where streams are opened, and calls go that are made one by one.
    at: Place,
    line: Option<Arc<Line>>,
    /// Until when the server is taken for one that knows no streams.
    older_until: Option<Instant>,
}

impl Streamed {
    pub(crate) fn new(unary: Unary, near: Option<Near>) -> Self {
        Self {
            path: unary.path,
            near,
            state: Mutex::new(State {
                at: Place::began(unary.client),
                line: None,
                older_until: None,
            }),
        }
    }

    fn unary(&self) -> Unary {
        Unary {
            client: self.state().at.client.clone(),
            path: self.path.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream, if one is open and stays so as far as is known.
    fn line(&self) -> Option<Arc<Line>> {
        let line = self.state().line.clone();
        line.filter(|line| line.is_open())
    }

    /// The stream, a new one if need be; `None` if the server knows none.
    async fn open(&self, poll: &Poll) -> Result<Option<Arc<Line>>, Error> {
        {
            let state = self.state();
            if let Some(line) = &state.line {
                return Ok(Some(Arc::clone(line)));
            }
            if state.older_until.is_some_and(|at| Instant::now() < at) {
                return Ok(None);
            }
        }
        let hello = Poll {
            offers: true,
            ..poll.clone()
        };
        let opened = self.open_at_best(&hello).await?;
        let mut state = self.state();
        let Some(work) = opened else {
            tracing::info!("the server knows no streams; polling instead");
            state.older_until = Some(Instant::now() + OLDER_FOR);
            return Ok(None);
        };
        state.older_until = None;
        let line = Arc::new(Line::start(work, &hello));
        Ok(Some(Arc::clone(state.line.insert(line))))
    }

    /// Opens a stream where the worker is best, or else where it began.
    async fn open_at_best(&self, hello: &Poll) -> Result<Option<Work>, Error> {
        let before = self.state().at.clone();
        let Some(near) = &self.near else {
            return before.client.work(&self.path, hello).await;
        };
        let best = near.choose(&before).await;
        self.state().at = best.clone();
        let opened = best.client.work(&self.path, hello).await;
        let Err(error) = &opened else {
            return opened;
        };
        let Some(began) = near.avoid(&best) else {
            return opened;
        };
        tracing::info!(%error, "the member cannot be worked at");
        self.state().at = began.clone();
        began.client.work(&self.path, hello).await
    }

    /// Leaves a stream if the worker is better elsewhere by now.
    async fn look_around(&self, line: &Line) {
        let Some(near) = &self.near else {
            return;
        };
        let before = self.state().at.clone();
        if !before.is_due() {
            return;
        }
        let best = near.choose(&before).await;
        if best.is_same(&before) {
            self.state().at = best;
        } else {
            line.go();
        }
    }

    /// Forgets a stream; who still waits for answers on it gets them.
    fn forget(&self, line: &Arc<Line>) {
        let mut state = self.state();
        state.line.take_if(|open| Arc::ptr_eq(open, line));
    }
}

impl Transport for Streamed {
    async fn poll(&self, poll: Poll) -> Result<Leased, Error> {
        loop {
            let Some(line) = self.open(&poll).await? else {
                return self.unary().poll(poll).await;
            };
            self.look_around(&line).await;
            match line.poll(&poll).await {
                Ok(Polled::Leased(leased)) => return Ok(leased),
                Ok(Polled::GoingAway) => {
                    tracing::info!("going elsewhere; opening another stream");
                    self.forget(&line);
                }
                Err(err) => {
                    self.forget(&line);
                    return Err(err);
                }
            }
        }
    }

    async fn report(&self, reports: Vec<Report>) -> Result<Vec<Result<(), Error>>, Error> {
        match self.line() {
            Some(line) => line.report(reports).await,
            None => self.unary().report(reports).await,
        }
    }

    async fn heartbeat(
        &self,
        heartbeats: Vec<Heartbeat>,
    ) -> Result<Vec<Result<Duration, Error>>, Error> {
        match self.line() {
            Some(line) => line.heartbeat(heartbeats).await,
            None => self.unary().heartbeat(heartbeats).await,
        }
    }

    fn keeps_polls(&self) -> bool {
        self.line().is_some()
    }

    async fn close(&self) {
        let line = self.state().line.take();
        if let Some(line) = line {
            let ended = line.ended();
            drop(line);
            // A server that takes longer will see the connection end.
            timeout(CLOSE_WAIT, ended).await.ok();
        }
    }
}
