//! Questions to the cluster about many topics or partitions at once.

use std::{
    ffi::{CStr, CString},
    fmt,
    ptr::{self, NonNull},
    slice,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList, admin::AdminClient, bindings as sys, error::RDKafkaErrorCode,
    topic_partition_list::TopicPartitionListElem,
};

use super::{Event, Failure, Owner as _, Queue, text};
use crate::client::Reports;

type Admin = AdminClient<Reports>;

/// A question to the cluster on its way.
pub(crate) struct Call<T> {
    queue: Queue<Admin>,
    read: fn(&Event) -> T,
}

impl<T> fmt::Debug for Call<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}

impl<T> Call<T> {
    /// The answer, if it comes in time.
    pub(crate) fn answer(&self, wait: Duration) -> Option<Result<T, Failure>> {
        let event = self.queue.next(wait)?;
        Some(match event.failure() {
            Some(failure) => Err(failure),
            None => Ok((self.read)(&event)),
        })
    }
}

/// A topic as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Described {
    /// Another one means that it was deleted and made again.
    pub(crate) id: Arc<str>,
    pub(crate) n_partitions: usize,
    pub(crate) has_leaders: bool,
}

/// Each topic that was asked for, or why nothing is known of it.
pub(crate) type Descriptions = Vec<(Box<str>, Result<Described, Failure>)>;

/// Asks for many topics at once; no name twice.
pub(crate) fn describe_topics<'a>(
    admin: &Arc<Admin>,
    names: impl IntoIterator<Item = &'a str>,
    timeout: Duration,
) -> Option<Call<Descriptions>> {
    let names: Vec<_> = names
        .into_iter()
        .filter_map(|name| CString::new(name).ok())
        .collect();
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let queue = Queue::new(admin)?;
    let options = Options::new(
        admin,
        sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        timeout,
    )?;
    // SAFETY: the names and the client live until the call has returned, and librdkafka copies what
    // it keeps; the collection is ours to destroy.
    unsafe {
        let topics =
            sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        sys::rd_kafka_DescribeTopics(
            admin.handle(),
            topics,
            options.0.as_ptr(),
            queue.ptr.as_ptr(),
        );
        sys::rd_kafka_TopicCollection_destroy(topics);
    }
    let read = read_descriptions;
    Some(Call { queue, read })
}

fn read_descriptions(event: &Event) -> Descriptions {
    let mut n = 0;
    // SAFETY: the event is alive, and what it holds lives as long as it. Only this thread has it, so
    // that the text of an id, which is written when it is asked for, is written by no other.
    unsafe {
        let result = sys::rd_kafka_event_DescribeTopics_result(event.0.as_ptr());
        if result.is_null() {
            return Vec::new();
        }
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut n);
        list(topics, n)
            .iter()
            .map(|topic| {
                let name = text(sys::rd_kafka_TopicDescription_name(*topic));
                (Box::from(name), read_description(*topic))
            })
            .collect()
    }
}

/// # Safety
/// The topic must be alive, and no other thread's.
unsafe fn read_description(
    topic: *const sys::rd_kafka_TopicDescription_t,
) -> Result<Described, Failure> {
    // SAFETY: the caller's promise; what the topic holds lives as long as it.
    unsafe {
        let error = sys::rd_kafka_TopicDescription_error(topic);
        let code = sys::rd_kafka_error_code(error);
        if code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(Failure {
                code: code.into(),
                text: text(sys::rd_kafka_error_string(error)).to_owned(),
            });
        }
        let id = sys::rd_kafka_TopicDescription_topic_id(topic);
        let id = text(sys::rd_kafka_Uuid_base64str(id));
        let mut n = 0;
        let partitions = sys::rd_kafka_TopicDescription_partitions(topic, &raw mut n);
        let has_leader = |partition: &*const sys::rd_kafka_TopicPartitionInfo_t| {
            let leader = sys::rd_kafka_TopicPartitionInfo_leader(*partition);
            !leader.is_null() && sys::rd_kafka_Node_id(leader) >= 0
        };
        Ok(Described {
            id: id.into(),
            n_partitions: n,
            has_leaders: list(partitions, n).iter().all(has_leader),
        })
    }
}

/// # Safety
/// It must be null, or point to as many values that live for `'a`.
unsafe fn list<'a, T>(ptr: *const T, n: usize) -> &'a [T] {
    if ptr.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(ptr, n) }
}

/// An offset of each partition that was asked for, or why it is not known.
pub(crate) type Offsets = Vec<((Box<str>, i32), Result<i64, RDKafkaErrorCode>)>;

/// Asks for an offset of each of many partitions: [`Offset::Beginning`] or [`Offset::End`], which is the end of what is
/// committed. Waits for the answer.
///
/// Not by the admin API's own call: while that knows no leader of a partition, the caller's thread and librdkafka's
/// race for its state, and the process ends by a segmentation fault (librdkafka 2.12.1,
/// `rd_kafka_topic_partition_list_query_leaders_async`). A consumer's question for times takes these two as times.
pub(crate) fn list_offsets(
    admin: &Admin,
    wanted: &TopicPartitionList,
    timeout: Duration,
) -> Offsets {
    let deadline = Instant::now() + timeout;
    match try_list_offsets(admin, wanted.clone(), timeout) {
        Ok(found) => found,
        Err(code) if wanted.count() < 2 || is_of_all(code) => failed(wanted, code),
        // One of them is at fault; it holds up no other.
        Err(_) => {
            let one_by_one = wanted.elements().into_iter().flat_map(|place| {
                let mut alone = TopicPartitionList::new();
                let (topic, partition) = (place.topic(), place.partition());
                // Any offset that is no special one can be set, and these are what was asked for.
                alone
                    .add_partition_offset(topic, partition, place.offset())
                    .ok();
                let left = deadline.saturating_duration_since(Instant::now());
                try_list_offsets(admin, alone.clone(), left)
                    .unwrap_or_else(|code| failed(&alone, code))
            });
            one_by_one.collect()
        }
    }
}

/// Whether a failure is of no single partition.
pub(crate) fn is_of_all(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
    )
}

fn failed(wanted: &TopicPartitionList, code: RDKafkaErrorCode) -> Offsets {
    let all = wanted.elements().into_iter();
    all.map(|place| ((Box::from(place.topic()), place.partition()), Err(code)))
        .collect()
}

fn try_list_offsets(
    admin: &Admin,
    wanted: TopicPartitionList,
    timeout: Duration,
) -> Result<Offsets, RDKafkaErrorCode> {
    let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: client and list are alive until the call has returned; it writes what it finds into the list.
    let code = unsafe { sys::rd_kafka_offsets_for_times(admin.handle(), wanted.ptr(), timeout) };
    if code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Err(code.into());
    }
    let read = |place: TopicPartitionListElem<'_>| {
        let offset = match (place.error(), place.offset()) {
            (Ok(()), Offset::Offset(offset)) => Ok(offset),
            (Ok(()), _) => Err(RDKafkaErrorCode::OffsetNotAvailable),
            (Err(err), _) => Err(err
                .rdkafka_error_code()
                .unwrap_or(RDKafkaErrorCode::Unknown)),
        };
        ((Box::from(place.topic()), place.partition()), offset)
    };
    Ok(wanted.elements().into_iter().map(read).collect())
}

/// Changes one setting of a topic and leaves the others, and tells what the controller says to it: rdkafka's own
/// call does not.
pub(crate) fn set_topic(
    admin: &Arc<Admin>,
    name: &str,
    (setting, value): (&CStr, &CStr),
    timeout: Duration,
) -> Option<Call<Result<(), Failure>>> {
    let name = CString::new(name).ok()?;
    let queue = Queue::new(admin)?;
    let options = Options::new(
        admin,
        sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_INCREMENTALALTERCONFIGS,
        timeout,
    )?;
    // SAFETY: the texts and the client live until the call has returned, and librdkafka copies what it
    // keeps; the resource and the error are ours to destroy.
    unsafe {
        let kind = sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
        let mut resource =
            NonNull::new(sys::rd_kafka_ConfigResource_new(kind, name.as_ptr()))?.as_ptr();
        let set = sys::rd_kafka_AlterConfigOpType_t::RD_KAFKA_ALTER_CONFIG_OP_TYPE_SET;
        let error = sys::rd_kafka_ConfigResource_add_incremental_config(
            resource,
            setting.as_ptr(),
            set,
            value.as_ptr(),
        );
        if error.is_null() {
            sys::rd_kafka_IncrementalAlterConfigs(
                admin.handle(),
                &raw mut resource,
                1,
                options.0.as_ptr(),
                queue.ptr.as_ptr(),
            );
        } else {
            sys::rd_kafka_error_destroy(error);
        }
        sys::rd_kafka_ConfigResource_destroy(resource);
        error.is_null().then_some(())?;
    }
    let read = read_set;
    Some(Call { queue, read })
}

fn read_set(event: &Event) -> Result<(), Failure> {
    let mut n = 0;
    let failed = |code: RDKafkaErrorCode, text: &str| {
        let text = text.to_owned();
        Err(Failure { code, text })
    };
    // SAFETY: the event is alive, and what it holds lives as long as it.
    unsafe {
        let result = sys::rd_kafka_event_IncrementalAlterConfigs_result(event.0.as_ptr());
        if result.is_null() {
            return failed(RDKafkaErrorCode::Unknown, "another answer came");
        }
        let found = sys::rd_kafka_IncrementalAlterConfigs_result_resources(result, &raw mut n);
        let Some(resource) = list(found, n).first() else {
            return failed(RDKafkaErrorCode::Unknown, "an answer about nothing came");
        };
        match sys::rd_kafka_ConfigResource_error(*resource) {
            sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
            code => {
                let why = text(sys::rd_kafka_ConfigResource_error_string(*resource));
                failed(code.into(), why)
            }
        }
    }
}

/// How a call is made.
struct Options(NonNull<sys::rd_kafka_AdminOptions_t>);

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: they are this value's own.
        unsafe { sys::rd_kafka_AdminOptions_destroy(self.0.as_ptr()) }
    }
}

impl Options {
    fn new(admin: &Admin, call: sys::rd_kafka_admin_op_t, timeout: Duration) -> Option<Self> {
        let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the client is alive, and what is returned is ours to destroy.
        let options = unsafe { sys::rd_kafka_AdminOptions_new(admin.handle(), call) };
        let options = Self(NonNull::new(options)?);
        // SAFETY: the options are alive; no text of an error is asked for.
        let set = unsafe {
            sys::rd_kafka_AdminOptions_set_request_timeout(
                options.0.as_ptr(),
                timeout,
                ptr::null_mut(),
                0,
            )
        };
        (set == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then_some(options)
    }
}
