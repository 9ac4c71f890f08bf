//! Lists over many partitions, from memory and from the store.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::time::Duration;

use scheduler_core::{
    Config, ListTasks, Outcome, PipelinePath, PipelineSpec, Poll, Report, Scheduler, StateName,
    Submit, TaskId, TaskOptions, memory,
};

const N: usize = 100;

async fn scheduler_with(data: &str) -> (Scheduler, PipelinePath, Vec<TaskId>) {
    let scheduler = Scheduler::start(Config::default(), memory::ports())
        .await
        .unwrap();
    let path = scheduler_core::path("default", "app", "pipe").unwrap();
    let spec = PipelineSpec {
        steps: [].into(),
        defaults: TaskOptions::default(),
        n_partitions: 3,
        ..PipelineSpec::default()
    };
    scheduler.create_pipeline(&path, spec).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..N {
        ids.push(
            scheduler
                .submit(&path, Submit::new(data.to_owned()))
                .await
                .unwrap()
                .id,
        );
    }
    (scheduler, path, ids)
}

async fn complete(scheduler: &Scheduler, path: &PipelinePath, n: usize) {
    let mut n_left = n;
    while n_left > 0 {
        let poll = Poll::new("w".try_into().unwrap(), n_left);
        let leased = scheduler.lease(path, poll).await.unwrap();
        for task in leased.tasks {
            let outcome = Outcome::Completed { result: "1".into() };
            let (id, token) = (task.id, task.token);
            let report = Report { id, token, outcome };
            scheduler.report(&path.tenant, report).await.unwrap();
            n_left -= 1;
        }
    }
}

/// All pages, one after the other; each keeps to its limit.
async fn list(
    scheduler: &Scheduler,
    path: &PipelinePath,
    query: ListTasks,
) -> (Vec<TaskId>, usize) {
    let (mut found, mut n_pages, mut page_token) = (Vec::new(), 0, None);
    loop {
        let query = ListTasks {
            page_token,
            ..query.clone()
        };
        let page = scheduler.list(path, query.clone()).await.unwrap();
        assert!(page.tasks.len() <= query.limit);
        found.extend(page.tasks.iter().map(|task| task.id));
        n_pages += 1;
        page_token = page.next_page_token;
        if page_token.is_none() {
            return (found, n_pages);
        }
    }
}

#[tokio::test]
async fn every_task_is_listed_once_wherever_it_is() {
    let (scheduler, path, mut ids) = scheduler_with("{}").await;
    complete(&scheduler, &path, N / 2).await;
    // The fetch of the last submit may still be on its way.
    scheduler
        .wait(&path.tenant, ids[N - 1], Duration::from_millis(100))
        .await
        .unwrap();
    for limit in [7, 30, 1000] {
        let query = ListTasks {
            limit,
            ..ListTasks::default()
        };
        let (mut found, _) = list(&scheduler, &path, query.clone()).await;
        found.sort_unstable();
        ids.sort_unstable();
        assert_eq!(found, ids, "in pages of {limit}");
        let done = ListTasks {
            states: vec![StateName::Completed],
            ..query
        };
        assert_eq!(list(&scheduler, &path, done).await.0.len(), N / 2);
    }
}

#[tokio::test]
async fn a_page_of_large_tasks_is_cut_by_bytes() {
    let data = format!(r#"{{"x":"{}"}}"#, "x".repeat(500_000));
    let (scheduler, path, ids) = scheduler_with(&data).await;
    scheduler
        .wait(&path.tenant, ids[N - 1], Duration::from_millis(100))
        .await
        .unwrap();
    let query = ListTasks {
        limit: 1000,
        ..ListTasks::default()
    };
    let (found, n_pages) = list(&scheduler, &path, query).await;
    assert_eq!(found.len(), N);
    assert!(n_pages >= 4, "{n_pages} pages of 50 MB");
}
