//! What members say to each other of workers that are connected elsewhere.

use scheduler_core::{
    Error, Held, LeaseLost, LeaseToken, Partition, PipelineNumber, Poll,
    member::{AllNews, News, Sought},
};

use super::{missing, task::labels};
use crate::pb;

/// What to lease, and of which pipeline.
///
/// # Errors
/// [`Error::Malformed`] or [`Error::Invalid`] if the other side speaks another version.
pub fn lease_owned(request: pb::LeaseOwnedRequest) -> Result<(PipelineNumber, Poll), Error> {
    let poll = request.poll.ok_or_else(|| missing("poll"))?;
    Ok((PipelineNumber(request.pipeline), poll.try_into()?))
}

fn partitions(all: Vec<u32>) -> Result<Vec<Partition>, Error> {
    let read = |partition| {
        let partition = u16::try_from(partition).map_err(|_| missing("partition"))?;
        Ok(Partition(partition))
    };
    all.into_iter().map(read).collect()
}

fn numbers(all: Vec<Partition>) -> Vec<u32> {
    all.into_iter()
        .map(|partition| partition.0.into())
        .collect()
}

impl From<(Held, LeaseLost)> for pb::LostLease {
    fn from((held, why): (Held, LeaseLost)) -> Self {
        Self {
            id: held.id.to_string(),
            lease_token: held.token.to_u64(),
            reason: pb::lost_lease::Reason::from(why).into(),
        }
    }
}

/// Reads a lease that is lost, and why.
pub(super) fn lost(lost: &pb::LostLease) -> Result<(Held, LeaseLost), Error> {
    let held = Held {
        id: lost.id.parse()?,
        token: LeaseToken::from_u64(lost.lease_token),
    };
    Ok((held, lost.reason().into()))
}

impl From<Sought> for pb::Sought {
    fn from(sought: Sought) -> Self {
        Self {
            pipeline: sought.pipeline.0,
            worker: sought.worker.to_string(),
            labels: sought.labels.iter().map(ToString::to_string).collect(),
            credit: u32::try_from(sought.credit).unwrap_or(u32::MAX),
            partitions: numbers(sought.partitions),
            held: sought.held.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::Sought> for Sought {
    type Error = Error;

    fn try_from(sought: pb::Sought) -> Result<Self, Error> {
        let held = sought.held.into_iter().map(TryInto::try_into);
        Ok(Self {
            pipeline: PipelineNumber(sought.pipeline),
            worker: sought.worker.as_str().try_into()?,
            labels: labels(&sought.labels)?,
            credit: usize::try_from(sought.credit).unwrap_or(usize::MAX),
            partitions: partitions(sought.partitions)?,
            held: held.collect::<Result<_, _>>()?,
        })
    }
}

impl From<AllNews> for pb::AwaitReadyResponse {
    fn from(news: AllNews) -> Self {
        let write = |(at, news)| {
            let mut wire = pb::News {
                index: u32::try_from(at).unwrap_or(u32::MAX),
                ..pb::News::default()
            };
            match news {
                News::Ready => wire.is_ready = true,
                News::Moved(moved) => wire.moved = numbers(moved),
                News::Lost(lost) => wire.lost = lost.into_iter().map(Into::into).collect(),
            }
            wire
        };
        Self {
            news: news.into_iter().map(write).collect(),
        }
    }
}

/// Reads the news of workers.
///
/// # Errors
/// [`Error::Malformed`] if the other side speaks another version.
pub fn all_news(answer: pb::AwaitReadyResponse) -> Result<AllNews, Error> {
    let mut all = Vec::new();
    for news in answer.news {
        let at = usize::try_from(news.index).unwrap_or(usize::MAX);
        if !news.lost.is_empty() {
            let lost = news.lost.iter().map(lost).collect::<Result<_, Error>>()?;
            all.push((at, News::Lost(lost)));
        }
        if !news.moved.is_empty() {
            all.push((at, News::Moved(partitions(news.moved)?)));
        }
        if news.is_ready {
            all.push((at, News::Ready));
        }
    }
    Ok(all)
}
