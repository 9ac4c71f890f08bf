//! How fast the store is on a TiDB: `cargo run --release -p scheduler-tidb --example measure_store -- mysql://root@127.0.0.1:4000/measure`
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "an example")]

use std::time::{Duration, Instant};

use scheduler_core::{
    Epoch, LeaseToken, Offset, Partition, PipelineNumber, ShardId, Timestamp,
    port::{
        TaskStore,
        log::NewTask,
        store::{
            Claim, DuePage, Ending, Flushed, ListPage, Lookup, Parked, ShardFlush, StoredState,
            StoredTask,
        },
    },
};
use scheduler_tidb::{Config, Tidb};

const ROUNDS: u64 = 9;

#[tokio::main]
async fn main() {
    let url = std::env::args().nth(1).unwrap();
    let config = Config {
        call_timeout: Duration::from_secs(120),
        statement_timeout: Duration::from_secs(60),
        ..Config::new(url)
    };
    let store = Tidb::open(config).await.unwrap().store();
    let pipeline = fastrand::u32(1_000..1_000_000);

    let shards: Vec<_> = (0..4_000_u16)
        .map(|at| shard(pipeline + u32::from(at / 1_000), at % 1_000))
        .collect();
    for batch in ["new", "known"] {
        let began = Instant::now();
        claim(&*store, &shards).await;
        println!(
            "claim of {} {batch} shards: {:?}",
            shards.len(),
            began.elapsed()
        );
    }

    for (n_shards, n_tasks) in [(1, 4_096), (256, 16), (256, 1), (1, 1)] {
        let mut took = Vec::new();
        let epochs = claim(&*store, &shards[..n_shards]).await;
        for round in 0..ROUNDS {
            let first = round * 10_000;
            let part = |(id, epoch): (&ShardId, &Epoch)| ShardFlush {
                watermark: Offset(first + n_tasks),
                tasks: (first..first + n_tasks)
                    .map(|at| stored(at, completed()))
                    .collect(),
                epoch: *epoch,
                ..part(*id, 1 + round)
            };
            let parts: Vec<_> = shards.iter().zip(&epochs).map(part).collect();
            let began = Instant::now();
            let answers = store.flush(&parts).await.unwrap();
            assert!(answers.iter().all(|answer| *answer == Flushed::Saved));
            took.push(began.elapsed());
        }
        let median = median(&mut took);
        let n_rows = n_tasks * u64::try_from(n_shards).unwrap();
        let rate = n_rows as f64 / median.as_secs_f64();
        println!(
            "flush of {n_shards} shards with {n_tasks} completed tasks each: {median:?}, {rate:.0} tasks/s"
        );
    }

    let id = shards[3_999];
    let epoch = claim(&*store, &[id]).await[0];
    for number in 1..=10 {
        let tasks = (number * 4_000..number * 4_000 + 4_000).map(|at| {
            let due_at = Timestamp::from_millis(1_000_000_000_000 + at % 7);
            stored(
                at,
                StoredState::Parked {
                    due_at,
                    kind: Parked::Scheduled,
                },
            )
        });
        let parked = ShardFlush {
            epoch,
            tasks: tasks.collect(),
            ..part(id, number)
        };
        let began = Instant::now();
        store.flush(&[parked]).await.unwrap();
        if number == 10 {
            println!("flush of 4,000 parked tasks: {:?}", began.elapsed());
        }
    }
    let page = DuePage {
        shard: id,
        from: (Timestamp::from_millis(1_000_000_000_003), Offset(20_000)),
        until: Timestamp::NEVER,
        n_max: 256,
        bytes_max: 4 << 20,
    };
    time("due page of 256 in the middle of 40,000", async || {
        assert_eq!(store.due(&[page]).await.unwrap()[0].tasks.len(), 256);
    })
    .await;
    let pages: Vec<_> = shards[..64]
        .iter()
        .map(|shard| DuePage {
            shard: *shard,
            ..page
        })
        .collect();
    time("due pages of 64 shards without any", async || {
        store.due(&pages).await.unwrap();
    })
    .await;
    let page = ListPage {
        shard: shards[0],
        states: Vec::new(),
        since: Timestamp::EPOCH,
        below: None,
        n_max: 100,
        bytes_max: 4 << 20,
    };
    time("list of 100 of some 40,000", async || {
        assert_eq!(
            store.list(std::slice::from_ref(&page)).await.unwrap()[0].len(),
            100
        );
    })
    .await;
    let lookups: Vec<_> = (0..256)
        .map(|at| Lookup::Task(shards[0], Offset(at)))
        .collect();
    time("get of 256", async || {
        store.get(&lookups).await.unwrap();
    })
    .await;
    time("get of 1", async || {
        store.get(&lookups[..1]).await.unwrap();
    })
    .await;
    let began = Instant::now();
    for at in 0..4 {
        store.forget(PipelineNumber(pipeline + at)).await.unwrap();
    }
    println!("forget of it all: {:?}", began.elapsed());
}

fn median(took: &mut [Duration]) -> Duration {
    took.sort_unstable();
    took[took.len() / 2]
}

async fn time(what: &str, mut run: impl AsyncFnMut()) {
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        run().await;
        took.push(began.elapsed());
    }
    println!("{what}: {:?}", median(&mut took));
}

async fn claim(store: &dyn TaskStore, shards: &[ShardId]) -> Vec<Epoch> {
    let claim = |shard: &ShardId| Claim {
        shard: *shard,
        address: "127.0.0.1:7070".into(),
        incarnation: "log-1".into(),
    };
    let claims: Vec<_> = shards.iter().map(claim).collect();
    let claimed = store.claim(&claims).await.unwrap();
    claimed.iter().map(|found| found.epoch).collect()
}

fn shard(pipeline: u32, partition: u16) -> ShardId {
    ShardId {
        pipeline: PipelineNumber(pipeline),
        partition: Partition(partition),
    }
}

fn completed() -> StoredState {
    StoredState::Ended {
        ending: Ending::Completed {
            result: "\"fine\"".into(),
        },
        ended_at: Timestamp::from_millis(1_000_000_009_000),
        keep_until: Timestamp::from_millis(4_000_000_000_000),
    }
}

fn stored(offset: u64, state: StoredState) -> StoredTask {
    StoredTask {
        offset: Offset(offset),
        accepted_at: Timestamp::from_millis(1_000_000_000_000 + offset),
        task: NewTask {
            data: format!("{{\"n\":{offset}}}").into(),
            options: None,
            traceparent: None,
        },
        state,
        attempt: 1,
        token: LeaseToken::NONE,
        started_at: None,
        errors: Vec::new(),
    }
}

fn part(shard: ShardId, number: u64) -> ShardFlush {
    ShardFlush {
        shard,
        epoch: Epoch(2),
        number,
        watermark: Offset::ZERO,
        seen_end: Offset::ZERO,
        done: Vec::new(),
        tasks: Vec::new(),
        forgotten: Vec::new(),
        keys: Vec::new(),
        cancels: None,
    }
}
