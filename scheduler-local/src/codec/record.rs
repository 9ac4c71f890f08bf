//! Records of the log: each as fields, and many of them as the blob of a batch.

use std::sync::Arc;

use scheduler_core::{
    Offset, Timestamp,
    port::log::{NewTask, Record, RecordBody},
};

use super::{Reader, Unreadable, Writer, options};

/// The fields of one record.
pub(crate) fn encode_record(task: &NewTask) -> Vec<u8> {
    let mut out = Writer::fields(task.data.len() + 16);
    write(&mut out, task);
    out.into_fields()
}

pub(super) fn write(out: &mut Writer, task: &NewTask) {
    out.bytes(&task.data);
    out.option(task.options.as_deref(), options::write);
    out.option(task.traceparent.as_deref(), |out, text| {
        out.bytes(text.as_bytes())
    });
}

pub(super) fn read(from: &mut Reader<'_>) -> Result<NewTask, Unreadable> {
    Ok(NewTask {
        data: from.bytes()?,
        options: from.option(options::read)?.map(Arc::new),
        traceparent: from.option(Reader::text)?.map(Arc::from),
    })
}

/// Makes the blob of a batch: records as [`encode_record`] gave them, each with its length before it.
#[derive(Debug)]
pub(crate) struct BatchBlob {
    out: Writer,
    len: usize,
}

impl BatchBlob {
    pub(crate) fn new() -> Self {
        Self {
            out: Writer::blob(256),
            len: 0,
        }
    }

    pub(crate) fn push(&mut self, record: &[u8]) {
        self.out.bytes(record);
        self.len += record.len();
    }

    /// Bytes of the records so far.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.out.into_blob()
    }
}

/// The records of a batch, from the first on.
#[derive(Debug)]
pub(crate) struct BatchRows<'a> {
    rest: Reader<'a>,
    next: Offset,
    accepted_at: Timestamp,
}

impl<'a> BatchRows<'a> {
    pub(crate) fn new(
        base: Offset,
        accepted_at: Timestamp,
        blob: &'a [u8],
    ) -> Result<Self, Unreadable> {
        let rest = Reader::blob(blob)?;
        Ok(Self {
            rest,
            next: base,
            accepted_at,
        })
    }

    /// The next record at or above `from`, or `None` after the last.
    pub(crate) fn next_from(&mut self, from: Offset) -> Result<Option<Record>, Unreadable> {
        while !self.rest.is_empty() {
            let mut fields = self.rest.part()?;
            let offset = self.next;
            self.next = offset.next();
            if offset >= from {
                return Ok(Some(Record {
                    offset,
                    accepted_at: self.accepted_at,
                    body: RecordBody::Task(read(&mut fields)?),
                }));
            }
        }
        Ok(None)
    }
}
