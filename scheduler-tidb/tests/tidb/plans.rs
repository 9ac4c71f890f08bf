//! How TiDB does what the ports ask for: by keys and ranges, never by reading a table from end to end.

use scheduler_core::{
    Epoch, Offset, PipelineNumber, Timestamp,
    port::store::{DuePage, KeyRow, KeyedPage, ListPage, Lookup, ShardFlush, StateName},
    watermark::DoneChunk,
};

use crate::fixture::{Database, claim_of, completing, create, shard};

#[tokio::test]
async fn no_statement_of_the_store_reads_a_whole_table_or_index() {
    let database = Database::shared();
    let tidb = database.tidb().await;
    let store = tidb.store();
    let shards: Vec<_> = (0..3).map(|n| shard(1, n)).collect();
    let claims: Vec<_> = shards.iter().map(|id| claim_of(*id, "a:1")).collect();
    store.claim(&claims).await.unwrap();
    let key = |n: u64| KeyRow {
        key: format!("k{n}").as_str().try_into().unwrap(),
        offset: Offset(n),
        fingerprint: n,
        keep_until: Timestamp::NEVER,
    };
    for number in 1..=2 {
        let part = |id: &scheduler_core::ShardId| ShardFlush {
            watermark: Offset(number * 2_000),
            done: vec![DoneChunk {
                index: 9,
                words: [1; 16],
            }],
            forgotten: vec![Offset(7)],
            keys: vec![key(number)],
            ..completing(*id, Epoch(1), number, 0..50)
        };
        let parts: Vec<_> = shards.iter().map(part).collect();
        store.flush(&parts).await.unwrap();
    }
    let due = |id: &scheduler_core::ShardId| DuePage {
        shard: *id,
        from: (Timestamp::EPOCH, Offset::ZERO),
        until: Timestamp::NEVER,
        n_max: 10,
        bytes_max: 1 << 20,
    };
    let due: Vec<_> = shards.iter().map(due).collect();
    store.due(&due).await.unwrap();
    let keyed = |id: &scheduler_core::ShardId| KeyedPage {
        shard: *id,
        key: "a".try_into().unwrap(),
        from: Offset(7),
        n_max: 10,
        bytes_max: 1 << 20,
    };
    let keyed: Vec<_> = shards.iter().map(keyed).collect();
    store.keyed(&keyed).await.unwrap();
    for states in [vec![], vec![StateName::Running, StateName::Completed]] {
        let page = |id: &scheduler_core::ShardId| ListPage {
            shard: *id,
            states: states.clone(),
            since: Timestamp::EPOCH,
            below: Some(Offset(40)),
            n_max: 10,
            bytes_max: 1 << 20,
        };
        let pages: Vec<_> = shards.iter().map(page).collect();
        store.list(&pages).await.unwrap();
    }
    let lookups: Vec<_> = shards
        .iter()
        .flat_map(|id| [Lookup::Task(*id, Offset(3)), Lookup::Key(*id, key(1).key)])
        .collect();
    store.get(&lookups).await.unwrap();
    store.owners(&shards).await.unwrap();
    let released: Vec<_> = shards.iter().map(|id| (*id, Epoch(1))).collect();
    store.release(&released).await.unwrap();
    store.claim(&claims).await.unwrap();
    tidb.catalog().change(create("a")).await.unwrap();
    store.forget(PipelineNumber(1)).await.unwrap();

    let mut client = database.client().await;
    let statements = client
        .text(
            "SELECT CONCAT(digest_text, '\n', plan, '\n--') FROM information_schema.statements_summary \
             WHERE schema_name = DATABASE() AND plan <> ''",
        )
        .await;
    let statements: Vec<_> = statements.split("\n--").collect();
    assert!(
        statements.len() > 15,
        "only {} statements",
        statements.len()
    );
    let by_index = [
        ("`state` = ?", "index:state"),
        ("order by `due_at`", "index:due"),
        ("`ordering_key` = ?", "index:ordering_key"),
        ("`ordering_key` is not ?", "index:ordering_key"),
    ];
    for statement in &statements {
        let is_small = ["catalog", "migration", "information_schema"];
        let is_small = is_small.iter().any(|table| statement.contains(table));
        let reads_all = statement.contains("TableFullScan") || statement.contains("IndexFullScan");
        assert!(is_small || !reads_all, "{statement}");
        for (condition, index) in by_index {
            assert!(
                !statement.contains(condition) || statement.contains(index),
                "{statement}"
            );
        }
    }
    for (condition, _) in by_index {
        assert!(
            statements
                .iter()
                .any(|statement| statement.contains(condition)),
            "{condition}"
        );
    }
}
