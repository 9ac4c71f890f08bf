//! More records than the buffers hold.

use scheduler_core::{
    Offset, Partition,
    port::log::{Fetch, NewRecord},
};

use crate::support::{LONG, Prefix, in_time, record, shard, wanted};

const N_PARTITIONS: u16 = 4;
const N_RECORDS: u64 = 10_000;

/// Every fetch wants another half of the partitions, so that buffers fill up, partitions are paused, and
/// what nobody wants gives way.
#[tokio::test]
async fn a_backlog_beyond_the_buffers_is_read_whole_and_in_order() {
    let mut prefix = Prefix::shared();
    prefix.config.payload_bytes_max = 64 << 10;
    prefix.config.fetch_bytes_max = 5 << 20;
    let log = prefix.log(N_PARTITIONS).await;
    let padding = "x".repeat(500);
    for partition in 0..N_PARTITIONS {
        let records = (0..N_RECORDS).map(|n| NewRecord {
            shard: shard(partition),
            ..record(format!("{{\"n\":{n},\"x\":\"{padding}\"}}"))
        });
        for answer in in_time(log.append(records.collect())).await {
            answer.unwrap();
        }
    }
    let mut next = [0; N_PARTITIONS as usize];
    let mut turn = 0;
    while next.iter().any(|next| *next < N_RECORDS) {
        turn += 1;
        let half = (0..N_PARTITIONS).filter(|partition| partition % 2 == turn / 8 % 2);
        let open = half.filter(|partition| next[usize::from(*partition)] < N_RECORDS);
        let wanted: Vec<_> = open
            .map(|partition| Fetch {
                shard: shard(partition),
                n_max: 700,
                ..wanted(next[usize::from(partition)])
            })
            .collect();
        if wanted.is_empty() {
            continue;
        }
        let fetches = in_time(log.fetch(&wanted, LONG)).await.unwrap();
        assert_eq!(fetches.lost, []);
        for fetched in fetches.read {
            let Partition(partition) = fetched.shard.partition;
            let next = &mut next[usize::from(partition)];
            for record in &fetched.records {
                assert_eq!(record.offset, Offset(*next), "of partition {partition}");
                *next += 1;
            }
            assert_eq!(fetched.next, Offset(*next));
        }
    }
}
