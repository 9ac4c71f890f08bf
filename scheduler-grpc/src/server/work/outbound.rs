//! The server's side of a stream, and how far it was taken.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::Stream;
use tokio::{sync::mpsc, time::timeout};
use tonic::Status;

use crate::pb::{self, work_response::Message};

/// Messages that the connection has not taken yet.
const MESSAGES_MAX: usize = 32;
/// How long a worker may read nothing while more of them wait.
const SEND_WAIT: Duration = Duration::from_secs(30);

type Item = Result<pb::WorkResponse, Status>;

/// Both ends of the server's side.
pub(super) fn channel() -> (Sender, Outbound) {
    let (send, messages) = mpsc::channel(MESSAGES_MAX);
    let taken = Arc::new(AtomicU64::new(0));
    let outbound = Outbound {
        messages,
        taken: Arc::clone(&taken),
    };
    (Sender { send, taken }, outbound)
}

/// What is said on a stream.
#[derive(Debug)]
pub(super) struct Sender {
    send: mpsc::Sender<Item>,
    taken: Arc<AtomicU64>,
}

impl Sender {
    /// Says something. False if nobody hears it.
    pub(super) async fn say(&self, message: pb::WorkResponse) -> bool {
        self.put(Ok(message)).await
    }

    /// Says at last why the stream ends.
    pub(super) async fn end(&self, why: Status) {
        self.put(Err(why)).await;
    }

    async fn put(&self, item: Item) -> bool {
        let item = match self.send.try_send(item) {
            Ok(()) => return true,
            Err(mpsc::error::TrySendError::Closed(_)) => return false,
            Err(mpsc::error::TrySendError::Full(item)) => item,
        };
        matches!(timeout(SEND_WAIT, self.send.send(item)).await, Ok(Ok(())))
    }

    /// Waits until nobody hears any more.
    pub(super) async fn closed(&self) {
        self.send.closed().await;
    }

    /// Whether the connection has taken this batch of tasks.
    pub(super) fn has_taken(&self, number: u64) -> bool {
        self.taken.load(Ordering::Acquire) >= number
    }
}

/// What the connection takes.
#[derive(Debug)]
pub(in crate::server) struct Outbound {
    messages: mpsc::Receiver<Item>,
    /// The last batch of tasks that it took.
    taken: Arc<AtomicU64>,
}

impl Stream for Outbound {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Item>> {
        let item = ready!(self.messages.poll_recv(context));
        if let Some(Ok(message)) = &item
            && matches!(message.message, Some(Message::Tasks(_)))
        {
            self.taken.store(message.number, Ordering::Release);
        }
        Poll::Ready(item)
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    fn batch(number: u64) -> pb::WorkResponse {
        let tasks = pb::WorkTasks::default();
        pb::WorkResponse {
            number,
            message: Some(Message::Tasks(tasks)),
        }
    }

    #[tokio::test]
    async fn a_batch_is_taken_when_the_connection_asks_for_it() {
        let (sender, mut outbound) = channel();
        assert!(sender.say(batch(1)).await);
        assert!(!sender.has_taken(1));
        outbound.next().await.unwrap().unwrap();
        assert!(sender.has_taken(1));
        assert!(sender.say(batch(2)).await);
        drop(outbound);
        sender.closed().await;
        assert!(!sender.has_taken(2));
        assert!(!sender.say(batch(3)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_reads_nothing_is_given_up() {
        let (sender, _outbound) = channel();
        for _ in 0..MESSAGES_MAX {
            assert!(sender.say(batch(1)).await);
        }
        assert!(!sender.say(batch(1)).await);
    }
}
