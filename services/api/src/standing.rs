//! Routes that show how pipelines, shards, workers and members stand.

use std::collections::BTreeMap;

use axum::{Json, extract::State, response::IntoResponse};
use scheduler_core::{
    MemberStanding, PipelineStats, ShardStanding, StateName, WorkerStanding,
    survey::{Durations, FailureGroup, States, Waits},
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Api,
    input::{NoQuery, Segments},
    pipeline::pipeline_path,
    problem::Problem,
    time::print_timestamp,
};

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(members))
        .routes(routes!(stats))
        .routes(routes!(shards))
        .routes(routes!(workers))
}

/// How a pipeline stands.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PipelineStats)]
pub(crate) struct StatsJson {
    /// Tasks in memory, as they are shown.
    states: StatesJson,
    /// What those wait for that wait: how many by reason.
    waiting: BTreeMap<String, u64>,
    /// Accepted tasks that their shards have not read.
    backlog: u64,
    /// Whether tasks are parked in the store; they are not counted.
    parked: bool,
    /// What happened since the shards were claimed.
    totals: TotalsJson,
    /// While this stays the same, the totals only grow.
    claims: u64,
    /// The first claim that still holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// How long tasks that could run waited for a worker, over about the last 5 minutes.
    wait: DurationsJson,
    /// How long workers had tasks before they reported, over about the last 5 minutes.
    run: DurationsJson,
    /// How tasks failed in about the last hour: at most 20 causes, the most frequent first.
    failures: Vec<FailuresJson>,
    /// How many shards it has.
    shards: usize,
    /// Of these, how many could not be asked: their part is missing.
    absent: usize,
}

/// Tasks in memory by state; those that have ended leave it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = States)]
pub(crate) struct StatesJson {
    scheduled: u64,
    available: u64,
    running: u64,
    retryable: u64,
}

/// What happened, durably.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Totals)]
pub(crate) struct TotalsJson {
    accepted: u64,
    completed: u64,
    failed_attempts: u64,
    cancelled: u64,
    discarded: u64,
}

/// How long something took, to within some percent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Durations)]
pub(crate) struct DurationsJson {
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_ms: Option<u64>,
}

/// Failures with one code, whose messages differ in words with digits only.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FailureGroup)]
pub(crate) struct FailuresJson {
    code: String,
    /// The beginning of the newest one's message.
    message: String,
    count: u64,
    first_at: String,
    last_at: String,
    /// Whose the newest was.
    task: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Shards)]
struct ShardsJson {
    shards: Vec<ShardJson>,
}

/// How a shard stands.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Shard)]
pub(crate) struct ShardJson {
    partition: u16,
    status: ShardStatus,
    /// Where its newest owner is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// The first offset that its log still holds, and the one that the next task will get.
    log_start: u64,
    log_end: u64,
    #[serde(flatten)]
    #[schema(ignore)]
    seen: Option<SeenJson>,
}

/// Whether somebody schedules a shard.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ShardStatus {
    /// Its owner answers for it.
    Working,
    /// Its owner does not: it moves, or the owner is down.
    Away,
    /// It never had an owner.
    Unowned,
}

/// How its owner sees a shard.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OwnedShard)]
pub(crate) struct SeenJson {
    epoch: u32,
    claimed_at: String,
    /// Up to where it has read its log.
    read_to: u64,
    /// Everything below is ended or stored, durably.
    watermark: u64,
    backlog: u64,
    /// What is in the backlog was accepted at or after this.
    #[serde(skip_serializing_if = "Option::is_none")]
    backlog_since: Option<String>,
    states: StatesJson,
    waiting: BTreeMap<String, u64>,
    parked: bool,
    bytes: u64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Workers)]
struct WorkersJson {
    workers: Vec<WorkerJson>,
    /// So many more there are.
    more: usize,
    /// So many members and shards could not be asked.
    absent: usize,
}

/// A worker that is connected or holds leases.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Worker)]
pub(crate) struct WorkerJson {
    worker: String,
    labels: Vec<String>,
    /// Whether it asks for tasks now.
    polling: bool,
    /// Free slots by its last poll.
    #[serde(skip_serializing_if = "Option::is_none")]
    credit: Option<usize>,
    leases: u64,
    /// Slots that its leases take.
    slots: u64,
    since: String,
    last_seen: String,
    /// The member that it is connected to, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Members)]
struct MembersJson {
    members: Vec<MemberJson>,
}

/// A process that schedules.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Member)]
pub(crate) struct MemberJson {
    address: String,
    ready: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(flatten)]
    #[schema(ignore)]
    told: Option<ToldJson>,
}

/// What a member says of itself.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MemberState)]
pub(crate) struct ToldJson {
    version: String,
    started_at: String,
    /// Shards that it works on, that it is claiming, and that it cannot schedule.
    shards: usize,
    coming: usize,
    refused: usize,
    /// In memory.
    tasks: usize,
    bytes: usize,
    /// Calls that wait for an answer, polls among them.
    calls: usize,
}

fn waiting(waits: &Waits) -> BTreeMap<String, u64> {
    let waits = waits.iter();
    waits.map(|(reason, n)| (reason.to_string(), *n)).collect()
}

impl From<&States> for StatesJson {
    fn from(states: &States) -> Self {
        let of = |state| states.get(&state).copied().unwrap_or(0);
        Self {
            scheduled: of(StateName::Scheduled),
            available: of(StateName::Available),
            running: of(StateName::Running),
            retryable: of(StateName::Retryable),
        }
    }
}

impl From<&Durations> for DurationsJson {
    fn from(durations: &Durations) -> Self {
        let quantile = |per_mille| {
            let millis = durations.quantile(per_mille)?.as_millis();
            Some(u64::try_from(millis).unwrap_or(u64::MAX))
        };
        Self {
            count: durations.n(),
            p50_ms: quantile(500),
            p99_ms: quantile(990),
        }
    }
}

impl From<&FailureGroup> for FailuresJson {
    fn from(group: &FailureGroup) -> Self {
        Self {
            code: group.code.to_string(),
            message: group.message.clone(),
            count: group.n,
            first_at: print_timestamp(group.first_at),
            last_at: print_timestamp(group.last_at),
            task: group.last.to_string(),
        }
    }
}

impl From<&PipelineStats> for StatsJson {
    fn from(stats: &PipelineStats) -> Self {
        Self {
            states: (&stats.states).into(),
            waiting: waiting(&stats.waits),
            backlog: stats.backlog,
            parked: stats.has_parked,
            totals: TotalsJson {
                accepted: stats.n_accepted,
                completed: stats.totals.n_completed,
                failed_attempts: stats.totals.n_failed,
                cancelled: stats.totals.n_cancelled,
                discarded: stats.totals.n_discarded,
            },
            claims: stats.n_claims,
            since: stats.since.map(print_timestamp),
            wait: (&stats.waited).into(),
            run: (&stats.ran).into(),
            failures: stats.failures.iter().map(Into::into).collect(),
            shards: stats.n_shards,
            absent: stats.n_absent,
        }
    }
}

impl From<ShardStanding> for ShardJson {
    fn from(shard: ShardStanding) -> Self {
        let backlog = shard.backlog().unwrap_or(0);
        let status = match (&shard.seen, &shard.owner) {
            (Some(_), _) => ShardStatus::Working,
            (None, Some(_)) => ShardStatus::Away,
            (None, None) => ShardStatus::Unowned,
        };
        Self {
            partition: shard.partition.0,
            status,
            owner: shard.owner.map(|owner| owner.to_string()),
            log_start: shard.bounds.start.0,
            log_end: shard.bounds.end.0,
            seen: shard.seen.map(|seen| SeenJson {
                epoch: seen.epoch.0,
                claimed_at: print_timestamp(seen.claimed_at),
                read_to: seen.next_offset.0,
                watermark: seen.watermark.0,
                backlog,
                backlog_since: seen.read_at.filter(|_| backlog > 0).map(print_timestamp),
                states: (&seen.states).into(),
                waiting: waiting(&seen.waits),
                parked: seen.has_parked,
                bytes: seen.n_bytes,
            }),
        }
    }
}

impl From<WorkerStanding> for WorkerJson {
    fn from(worker: WorkerStanding) -> Self {
        Self {
            worker: worker.worker.to_string(),
            labels: worker.labels.iter().map(ToString::to_string).collect(),
            polling: worker.is_polling,
            credit: worker.credit,
            leases: worker.n_leases,
            slots: worker.n_slots,
            since: print_timestamp(worker.since),
            last_seen: print_timestamp(worker.seen_at),
            member: worker.member.map(|member| member.to_string()),
        }
    }
}

impl From<MemberStanding> for MemberJson {
    fn from(member: MemberStanding) -> Self {
        let (why, told) = match member.state {
            Ok(state) => {
                let load = state.load;
                let told = ToldJson {
                    version: state.version,
                    started_at: print_timestamp(state.started_at),
                    shards: load.n_shards,
                    coming: load.n_coming,
                    refused: load.n_refused,
                    tasks: load.n_tasks,
                    bytes: load.n_bytes,
                    calls: load.n_calls,
                };
                (state.unready, Some(told))
            }
            Err(error) => (Some(error.to_string()), None),
        };
        Self {
            address: member.address.to_string(),
            ready: why.is_none(),
            why,
            told,
        }
    }
}

/// Says how many tasks there are, what became of them lately, and how they failed.
#[utoipa::path(
    get, path = "/applications/{app}/pipelines/{pipeline}/stats", operation_id = "getPipelineStats", tag = "pipelines",
    responses(
        (status = 200, description = "How the pipeline stands", body = StatsJson),
    ),
)]
async fn stats(
    State(api): State<Api>,
    Segments((app, pipeline)): Segments<(String, String)>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    let path = pipeline_path(&api, &app, &pipeline)?;
    let stats = api.scheduler().stats(&path).await?;
    Ok(Json(StatsJson::from(&stats)))
}

/// Says who owns the shards of a pipeline, and how these stand.
#[utoipa::path(
    get, path = "/applications/{app}/pipelines/{pipeline}/shards", operation_id = "listShards", tag = "pipelines",
    responses(
        (status = 200, description = "By partition", body = ShardsJson),
    ),
)]
async fn shards(
    State(api): State<Api>,
    Segments((app, pipeline)): Segments<(String, String)>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    let path = pipeline_path(&api, &app, &pipeline)?;
    let shards = api.scheduler().shards(&path).await?;
    let shards = shards.into_iter().map(Into::into).collect();
    Ok(Json(ShardsJson { shards }))
}

/// Says who works for a pipeline.
#[utoipa::path(
    get, path = "/applications/{app}/pipelines/{pipeline}/workers", operation_id = "listWorkers", tag = "pipelines",
    responses(
        (status = 200, description = "By name", body = WorkersJson),
    ),
)]
async fn workers(
    State(api): State<Api>,
    Segments((app, pipeline)): Segments<(String, String)>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    let path = pipeline_path(&api, &app, &pipeline)?;
    let workers = api.scheduler().workers(&path).await?;
    Ok(Json(WorkersJson {
        workers: workers.list.into_iter().map(Into::into).collect(),
        more: workers.n_more,
        absent: workers.n_absent,
    }))
}

/// Lists the members that own shards.
#[utoipa::path(
    get, path = "/members", operation_id = "listMembers", tag = "members",
    responses(
        (status = 200, description = "The members that own shards, by address", body = MembersJson),
    ),
)]
async fn members(State(api): State<Api>, _: NoQuery) -> Result<impl IntoResponse, Problem> {
    let members = api.scheduler().members().await?;
    let members = members.into_iter().map(Into::into).collect();
    Ok(Json(MembersJson { members }))
}
