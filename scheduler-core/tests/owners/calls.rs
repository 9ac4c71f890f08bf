//! Calls find the owners of shards.

use scheduler_core::{Error, ListTasks, StateName, Submit};

use crate::cluster::{Cluster, SOON};

fn with_key(key: &str, data: &'static str) -> Submit {
    let mut submit = Submit::new(data);
    submit.options.idempotency_key = Some(key.try_into().unwrap());
    submit
}

#[tokio::test]
async fn a_front_and_every_member_reach_tasks_of_every_owner() {
    let cluster = Cluster::start().await;
    let (tenant, path) = (&cluster.path.tenant, &cluster.path);
    let mut ids = Vec::new();
    for n in 0..64 {
        let submit = Submit::new(format!(r#"{{"n":{n}}}"#));
        ids.push(cluster.front.submit(path, submit).await.unwrap().id);
    }
    let anyone = [
        cluster.front.clone(),
        cluster.member("even"),
        cluster.member("odd"),
    ];
    for handle in &anyone {
        let read = async {
            for id in &ids {
                // Until the owner has read it, it is in the backlog, which is to see as well.
                let task = handle.get(tenant, *id).await.unwrap();
                assert_eq!(task.state, StateName::Available);
            }
            while handle
                .list(path, ListTasks::default())
                .await
                .unwrap()
                .backlog
                > 0
            {
                tokio::task::yield_now().await;
            }
            let page = handle.list(path, ListTasks::default()).await.unwrap();
            assert_eq!(page.tasks.len(), 64);
        };
        tokio::time::timeout(SOON, read).await.unwrap();
    }
    for (n, handle) in anyone.iter().enumerate() {
        let cancelled = handle.cancel(tenant, ids[n]).await.unwrap();
        assert_eq!(cancelled.state, StateName::Cancelled);
    }
    let waiting = anyone.map(|handle| {
        let (tenant, ids) = (tenant.clone(), ids.clone());
        tokio::spawn(async move {
            for id in ids {
                let task = handle.wait(&tenant, id, SOON).await.unwrap();
                assert!(task.state.is_terminal(), "{:?}", task.state);
            }
        })
    });
    cluster.work(61).await;
    for waiting in waiting {
        waiting.await.unwrap();
    }
}

#[tokio::test]
async fn racing_submits_with_one_key_are_one_task_wherever_they_come_in() {
    let cluster = Cluster::start().await;
    let anyone = [
        cluster.front.clone(),
        cluster.member("even"),
        cluster.member("odd"),
    ];
    for key in ["a", "b", "c", "d"] {
        let racing: Vec<_> = (0..12)
            .map(|n| {
                let (handle, path) = (anyone[n % 3].clone(), cluster.path.clone());
                let submit = with_key(key, "{}");
                tokio::spawn(async move { handle.submit(&path, submit).await.unwrap() })
            })
            .collect();
        let mut submitted = Vec::new();
        for racing in racing {
            submitted.push(racing.await.unwrap());
        }
        let first = submitted.iter().filter(|submitted| !submitted.repeated);
        assert_eq!(first.count(), 1);
        assert!(submitted.iter().all(|other| other.id == submitted[0].id));
        let other = with_key(key, r#"{"other":1}"#);
        let refused = cluster.front.submit(&cluster.path, other).await;
        assert_eq!(refused, Err(Error::KeyReused(key.to_owned())));
    }
}

#[tokio::test]
async fn without_its_owner_a_task_that_ended_is_read_and_others_are_said_to_move() {
    let cluster = Cluster::start().await;
    let (tenant, path) = (&cluster.path.tenant, &cluster.path);
    let ended = cluster
        .front
        .submit(path, with_key("k", "{}"))
        .await
        .unwrap();
    cluster.work(1).await;
    let open = Submit::new("{}");
    let mut open_ids = Vec::new();
    for _ in 0..32 {
        open_ids.push(cluster.front.submit(path, open.clone()).await.unwrap().id);
    }
    for address in ["even", "odd"] {
        let member = cluster.take(address);
        member.shutdown().await;
    }
    let task = cluster.front.get(tenant, ended.id).await.unwrap();
    assert_eq!(task.state, StateName::Completed);
    let again = cluster.front.submit(path, with_key("k", "{}")).await;
    assert!(matches!(again, Err(Error::Unavailable { .. })), "{again:?}");
    for id in open_ids {
        let moving = cluster.front.get(tenant, id).await;
        assert_eq!(moving, Err(Error::moved()));
    }
    // A submit without a key needs the log alone; a member that comes back elsewhere has it all.
    let late = cluster.front.submit(path, open).await.unwrap();
    cluster.join("even", 0).await;
    cluster.join("odd", 1).await;
    cluster.owns_shards("even").await;
    cluster.owns_shards("odd").await;
    cluster.work(33).await;
    let task = cluster.front.wait(tenant, late.id, SOON).await.unwrap();
    assert_eq!(task.state, StateName::Completed);
    let again = cluster
        .front
        .submit(path, with_key("k", "{}"))
        .await
        .unwrap();
    assert_eq!((again.id, again.repeated), (ended.id, true));
}
