//! The calls of librdkafka that rdkafka does not wrap: events with the partition they are about,
//! topic ids, many offsets in one request, and whether a failed record may have been written.
//!
//! The only unsafe code of the workspace. Everything that is got here is freed when dropped.
#![expect(
    unsafe_code,
    reason = "librdkafka is C, and rdkafka wraps only a part of it"
)]

mod call;

use std::{
    ffi::{CStr, c_char, c_void},
    fmt,
    ptr::{self, NonNull},
    slice,
    sync::Arc,
    time::Duration,
};

use rdkafka::{
    admin::AdminClient,
    bindings as sys,
    consumer::{BaseConsumer, Consumer as _},
    error::RDKafkaErrorCode,
    message::BorrowedMessage,
};

pub(crate) use self::call::{
    Call, Described, Descriptions, Offsets, describe_topics, is_of_all, list_offsets, set_topic,
};
use crate::client::Reports;

pub(crate) const OPTIONS_HEADER: &CStr = c"workload-options";
pub(crate) const TRACE_HEADER: &CStr = c"traceparent";

/// What keeps a client of librdkafka alive.
pub(crate) trait Owner: Send + Sync + 'static {
    fn handle(&self) -> *mut sys::rd_kafka_t;
    fn reports(&self) -> &Reports;
}

impl Owner for BaseConsumer<Reports> {
    fn handle(&self) -> *mut sys::rd_kafka_t {
        self.client().native_ptr()
    }

    fn reports(&self) -> &Reports {
        self.context()
    }
}

impl Owner for AdminClient<Reports> {
    fn handle(&self) -> *mut sys::rd_kafka_t {
        self.inner().native_ptr()
    }

    fn reports(&self) -> &Reports {
        self.inner().context()
    }
}

/// A queue of events of a client.
pub(crate) struct Queue<O> {
    ptr: NonNull<sys::rd_kafka_queue_t>,
    owner: Arc<O>,
}

// SAFETY: librdkafka's queues are thread safe, and the owner is `Send` and `Sync`.
unsafe impl<O: Owner> Send for Queue<O> {}
// SAFETY: as above.
unsafe impl<O: Owner> Sync for Queue<O> {}

impl<O> Drop for Queue<O> {
    fn drop(&mut self) {
        // SAFETY: the handle is this value's own, and its client still lives.
        unsafe { sys::rd_kafka_queue_destroy(self.ptr.as_ptr()) }
    }
}

impl<O> fmt::Debug for Queue<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl<O: Owner> Queue<O> {
    fn new(owner: &Arc<O>) -> Option<Self> {
        // SAFETY: the owner keeps the client alive.
        let ptr = unsafe { sys::rd_kafka_queue_new(owner.handle()) };
        let owner = Arc::clone(owner);
        NonNull::new(ptr).map(|ptr| Self { ptr, owner })
    }

    fn next(&self, wait: Duration) -> Option<Event> {
        let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is alive, and the event is ours to destroy.
        NonNull::new(unsafe { sys::rd_kafka_queue_poll(self.ptr.as_ptr(), wait) }).map(Event)
    }
}

/// An event; lives shorter than its queue.
struct Event(NonNull<sys::rd_kafka_event_t>);

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is this value's own.
        unsafe { sys::rd_kafka_event_destroy(self.0.as_ptr()) }
    }
}

impl Event {
    fn kind(&self) -> i32 {
        // SAFETY: the event is alive.
        unsafe { sys::rd_kafka_event_type(self.0.as_ptr()) }
    }

    fn failure(&self) -> Option<Failure> {
        // SAFETY: the event is alive.
        let code = unsafe { sys::rd_kafka_event_error(self.0.as_ptr()) };
        if code == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        // SAFETY: the event is alive, and so is its text.
        let text = unsafe { text(sys::rd_kafka_event_error_string(self.0.as_ptr())) };
        Some(Failure {
            code: code.into(),
            text: text.to_owned(),
        })
    }
}

/// Why librdkafka could not do something.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Failure {
    pub(crate) code: RDKafkaErrorCode,
    pub(crate) text: String,
}

/// A text of librdkafka's; empty if it is none.
///
/// # Safety
/// It must be null or point to a text that ends with a zero and lives for `'a`.
unsafe fn text<'a>(ptr: *const c_char) -> &'a str {
    if ptr.is_null() {
        return "";
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(ptr) }.to_str().unwrap_or("")
}

/// A record as it came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raw<'a> {
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    /// The header with the options: absent, without a value, or with one.
    pub(crate) options: Option<Option<&'a [u8]>>,
    pub(crate) traceparent: Option<&'a [u8]>,
    pub(crate) millis: i64,
}

/// One partition, and an offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// What a consumer has to tell.
#[derive(Debug)]
pub(crate) enum Polled<'a> {
    Record(Place<'a>, Raw<'a>),
    /// There is nothing between what was told before and this offset, which is the end for now.
    End(Place<'a>),
    /// The partition cannot be read on.
    Failed(Place<'a>, Failure),
}

/// The events of a consumer.
#[derive(Debug)]
pub(crate) struct Events(Queue<BaseConsumer<Reports>>);

impl Events {
    /// Of a consumer with a `group.id`; others have no queue of their own.
    pub(crate) fn of(owner: &Arc<BaseConsumer<Reports>>) -> Option<Self> {
        // SAFETY: the owner keeps the client alive.
        let ptr = unsafe { sys::rd_kafka_queue_get_consumer(owner.handle()) };
        let owner = Arc::clone(owner);
        NonNull::new(ptr).map(|ptr| Self(Queue { ptr, owner }))
    }

    /// Takes the next event, if one comes in time. Log lines and general errors go to the reports.
    pub(crate) fn poll(&self, wait: Duration, mut take: impl FnMut(Polled<'_>)) -> bool {
        let Some(event) = self.0.next(wait) else {
            return false;
        };
        match event.kind() {
            sys::RD_KAFKA_EVENT_FETCH => {
                // SAFETY: the event is alive; its messages live as long as it.
                let next =
                    || unsafe { sys::rd_kafka_event_message_next(event.0.as_ptr()).as_ref() };
                while let Some(message) = next() {
                    // SAFETY: the message is one of a consumer and alive.
                    take(unsafe { read(message) });
                }
            }
            sys::RD_KAFKA_EVENT_ERROR => self.take_error(&event, take),
            sys::RD_KAFKA_EVENT_LOG => self.take_log(&event),
            _ => {}
        }
        true
    }

    fn take_error(&self, event: &Event, mut take: impl FnMut(Polled<'_>)) {
        let Some(failure) = event.failure() else {
            return;
        };
        // SAFETY: the event is alive; what is returned is ours to destroy.
        let partition =
            NonNull::new(unsafe { sys::rd_kafka_event_topic_partition(event.0.as_ptr()) });
        let Some(partition) = partition else {
            return self.0.owner.reports().failure(failure.code, &failure.text);
        };
        // SAFETY: it is not null and lives until it is destroyed below.
        let at = unsafe { partition.as_ref() };
        let place = Place {
            // SAFETY: the text lives as long as the partition.
            topic: unsafe { text(at.topic) },
            partition: at.partition,
            offset: at.offset,
        };
        if failure.code == RDKafkaErrorCode::PartitionEOF {
            take(Polled::End(place));
        } else {
            take(Polled::Failed(place, failure));
        }
        // SAFETY: it is ours, and nothing refers to it any more.
        unsafe { sys::rd_kafka_topic_partition_destroy(partition.as_ptr()) }
    }

    fn take_log(&self, event: &Event) {
        let (mut facility, mut line, mut level) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the event is alive, and the texts live as long as it.
        let (read, facility, line) = unsafe {
            let read = sys::rd_kafka_event_log(
                event.0.as_ptr(),
                &raw mut facility,
                &raw mut line,
                &raw mut level,
            );
            (read, text(facility), text(line))
        };
        if read == 0 {
            self.0.owner.reports().line(level, facility, line);
        }
    }
}

/// # Safety
/// The message must be one of a consumer, and alive for `'a` together with its event.
unsafe fn read<'a>(message: &'a sys::rd_kafka_message_t) -> Polled<'a> {
    // SAFETY: a consumer's message has a topic, which lives as long as it.
    let topic = unsafe { text(sys::rd_kafka_topic_name(message.rkt)) };
    let place = Place {
        topic,
        partition: message.partition,
        offset: message.offset,
    };
    if message.err != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        // SAFETY: the message is alive, and so is its text.
        let text = unsafe { text(sys::rd_kafka_message_errstr(message)) };
        let failure = Failure {
            code: message.err.into(),
            text: text.to_owned(),
        };
        return Polled::Failed(place, failure);
    }
    let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    let raw = Raw {
        // SAFETY: the key is null or has as many bytes, and lives as long as the message.
        key: unsafe { bytes(message.key, message.key_len) },
        // SAFETY: the payload is null or has as many bytes, and lives as long as the message.
        value: unsafe { bytes(message.payload, message.len) },
        // SAFETY: the message is alive for `'a`.
        options: unsafe { last_header(message, OPTIONS_HEADER) },
        // SAFETY: as above.
        traceparent: unsafe { last_header(message, TRACE_HEADER) }.flatten(),
        // SAFETY: as above.
        millis: unsafe { sys::rd_kafka_message_timestamp(message, &raw mut kind) },
    };
    Polled::Record(place, raw)
}

/// # Safety
/// It must be null, or point to as many bytes that live for `'a`.
unsafe fn bytes<'a>(ptr: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller's promise.
    (!ptr.is_null()).then(|| unsafe { slice::from_raw_parts(ptr.cast(), len) })
}

/// By name, since rdkafka's list of headers panics at a name that is not UTF-8.
///
/// # Safety
/// The message must be alive for `'a`.
unsafe fn last_header<'a>(
    message: *const sys::rd_kafka_message_t,
    name: &CStr,
) -> Option<Option<&'a [u8]>> {
    const FOUND: sys::rd_kafka_resp_err_t = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
    let (mut headers, mut value, mut len) = (ptr::null_mut(), ptr::null(), 0);
    // SAFETY: the message is alive; the headers are its own.
    if unsafe { sys::rd_kafka_message_headers(message, &raw mut headers) } != FOUND {
        return None;
    }
    // SAFETY: the headers live as long as the message, and so do their values.
    unsafe {
        let found =
            sys::rd_kafka_header_get_last(headers, name.as_ptr(), &raw mut value, &raw mut len);
        (found == FOUND).then(|| bytes(value, len))
    }
}

/// Whether a record that failed can still be in the log.
pub(crate) fn is_certainly_not_written(record: &BorrowedMessage<'_>) -> bool {
    // SAFETY: the message is alive as long as the reference.
    let status = unsafe { sys::rd_kafka_message_status(record.ptr()) };
    status == sys::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED
}

/// Makes a client fail for good, as a cluster that contradicts itself can.
#[cfg(test)]
pub(crate) fn fail_for_good<C: rdkafka::ClientContext>(client: &rdkafka::client::Client<C>) {
    // SAFETY: the client is alive, and librdkafka copies the text.
    unsafe {
        sys::rd_kafka_test_fatal_error(
            client.native_ptr(),
            sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
            c"a test".as_ptr(),
        );
    }
}
