//! What an answer leaves unread of its request's body: it is read and dropped before the answer goes out.
//!
//! An answer that comes early (too large, no such path) would otherwise close the connection while
//! the client still sends, and the reset that follows can take the answer with it.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::Body, extract::Request, http::header, middleware::Next, response::Response};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

/// The most bytes that are dropped, and how long that may take; then the connection is closed.
const DROPPED_BYTES_MAX: usize = 16 << 20;
const DROPPED_WAIT: Duration = Duration::from_secs(5);

/// Says of an answer that it is made from the body while that comes, so that nothing is left over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadsOn;

pub(crate) async fn read_to_end(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    if body.is_end_stream() {
        return next.run(Request::from_parts(head, body)).await;
    }
    // A client that asks first sends nothing until the body is read.
    let is_asked_for = head.headers.contains_key(header::EXPECT);
    let lent = Lent::new(body);
    let lent_out = Body::new(lent.clone());
    let response = next.run(Request::from_parts(head, lent_out)).await;
    if response.extensions().get::<ReadsOn>().is_some() {
        return response;
    }
    if !is_asked_for || lent.is_begun() {
        // Too slow is as good as too much.
        drop(tokio::time::timeout(DROPPED_WAIT, lent.drop_rest()).await);
    }
    response
}

/// A body that is had back after its reader is gone.
#[derive(Debug, Clone)]
struct Lent {
    body: Arc<Mutex<Body>>,
    is_begun: Arc<AtomicBool>,
}

impl Lent {
    fn new(body: Body) -> Self {
        Self {
            body: Arc::new(Mutex::new(body)),
            is_begun: Arc::default(),
        }
    }

    fn is_begun(&self) -> bool {
        self.is_begun.load(Ordering::Relaxed)
    }

    async fn drop_rest(mut self) {
        let mut n_bytes = 0;
        while let Some(Ok(frame)) = self.frame().await {
            n_bytes += frame.data_ref().map_or(0, Bytes::len);
            if n_bytes > DROPPED_BYTES_MAX {
                return;
            }
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Body) -> T) -> T {
        // It is locked for a poll only, and never by two.
        look(&mut self.body.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.is_begun.store(true, Ordering::Relaxed);
        self.with(|body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.with(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|body| HttpBody::size_hint(body))
    }
}
