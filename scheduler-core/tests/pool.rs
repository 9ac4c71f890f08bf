//! A pool that tenants share, and what pausing and redriving do through the handle.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::collections::BTreeMap;

use scheduler_core::{
    Config, Error, Failure, Mode, Outcome, PipelinePath, PipelineSpec, Poll, PoolName, Report,
    Scheduler, StateName, Submit, TaskOptions, TenantName, memory, task::retry::RetryPolicy,
};

async fn scheduler_with(spec: PipelineSpec, tenants: &[&str]) -> (Scheduler, Vec<PipelinePath>) {
    let weights = [(TenantName::try_from("large").unwrap(), 3)];
    let config = Config {
        tenant_weights: BTreeMap::from(weights),
        ..Config::default()
    };
    let scheduler = Scheduler::start(config, memory::ports()).await.unwrap();
    let mut paths = Vec::new();
    for tenant in tenants {
        let path = scheduler_core::path(tenant, "app", "pipe").unwrap();
        scheduler
            .create_pipeline(&path, spec.clone())
            .await
            .unwrap();
        paths.push(path);
    }
    (scheduler, paths)
}

fn poll(credit: usize) -> Poll {
    Poll::new("w".try_into().unwrap(), credit)
}

#[tokio::test]
async fn a_worker_of_a_pool_gets_tasks_of_all_its_tenants_by_weight() {
    let pool = PoolName::try_from("shared").unwrap();
    let spec = PipelineSpec {
        pool: Some(pool.clone()),
        ..PipelineSpec::default()
    };
    let (scheduler, paths) = scheduler_with(spec, &["large", "small"]).await;
    for path in &paths {
        for _ in 0..100 {
            scheduler.submit(path, Submit::new("{}")).await.unwrap();
        }
    }
    // The logs are read on their own time: both tenants have something once both were leased from.
    let mut n_leased = BTreeMap::<TenantName, usize>::new();
    let mut leases = Vec::new();
    while leases.len() < 80 {
        let leased = scheduler.lease_from_pool(&pool, poll(1)).await.unwrap();
        for task in leased.tasks {
            let owner = scheduler.owner_of(task.id).unwrap();
            *n_leased.entry(owner.tenant.clone()).or_default() += 1;
            leases.push((owner.tenant, task));
        }
    }
    let n = |tenant: &str| n_leased[&TenantName::try_from(tenant).unwrap()];
    assert!((55..=65).contains(&n("large")), "{n_leased:?}");
    for (tenant, task) in leases {
        let (id, token) = (task.id, task.token);
        let outcome = Outcome::Completed { result: "1".into() };
        let report = Report { id, token, outcome };
        scheduler.report(&tenant, report).await.unwrap();
        assert_eq!(
            scheduler.get(&tenant, id).await.unwrap().state,
            StateName::Completed
        );
    }
}

#[tokio::test]
async fn a_paused_pipeline_takes_tasks_and_starts_them_when_it_is_resumed() {
    let (scheduler, paths) = scheduler_with(PipelineSpec::default(), &["acme"]).await;
    let path = &paths[0];
    let paused = scheduler.pause(path, "ann", "a new release").await.unwrap();
    assert!(matches!(&paused.mode, Mode::Paused { by, .. } if by == "ann"));
    let id = scheduler.submit(path, Submit::new("{}")).await.unwrap().id;
    let waits = loop {
        match scheduler.get(&path.tenant, id).await.unwrap().waits {
            Some(waits) if waits.reason == "paused" => break waits,
            _ => tokio::task::yield_now().await,
        }
    };
    assert!(waits.text.contains("ann: a new release"), "{waits:?}");
    let waiting = {
        let (scheduler, path) = (scheduler.clone(), path.clone());
        tokio::spawn(async move { scheduler.lease(&path, poll(1)).await.unwrap() })
    };
    scheduler.resume(path).await.unwrap();
    assert_eq!(waiting.await.unwrap().tasks[0].id, id);
    scheduler.drain(path).await.unwrap();
    let refused = scheduler.submit(path, Submit::new("{}")).await;
    assert!(matches!(refused, Err(Error::WrongState(_))), "{refused:?}");
    let long = "x".repeat(2_000);
    let refused = scheduler.pause(path, "ann", &long).await;
    assert!(matches!(refused, Err(Error::Invalid(fault)) if fault.field == "reason"));
}

#[tokio::test]
async fn a_discarded_task_is_redriven_under_its_id() {
    let retry = RetryPolicy {
        max_attempts: 1,
        ..RetryPolicy::default()
    };
    let spec = PipelineSpec {
        defaults: TaskOptions {
            retry: Some(retry),
            ..TaskOptions::default()
        },
        ..PipelineSpec::default()
    };
    let (scheduler, paths) = scheduler_with(spec, &["acme"]).await;
    let path = &paths[0];
    let id = scheduler.submit(path, Submit::new("{}")).await.unwrap().id;
    let failure = Failure {
        code: "bug".try_into().unwrap(),
        message: "not mended yet".to_owned(),
        retryable: true,
        detail: "".into(),
    };
    let outcomes = [
        Outcome::Failed(failure),
        Outcome::Completed { result: "1".into() },
    ];
    for (outcome, state) in outcomes
        .into_iter()
        .zip([StateName::Discarded, StateName::Completed])
    {
        let task = scheduler
            .lease(path, poll(1))
            .await
            .unwrap()
            .tasks
            .remove(0);
        assert_eq!((task.id, task.attempt), (id, 1));
        let token = task.token;
        scheduler
            .report(&path.tenant, Report { id, token, outcome })
            .await
            .unwrap();
        assert_eq!(scheduler.get(&path.tenant, id).await.unwrap().state, state);
        let redriven = scheduler.redrive(&path.tenant, id).await;
        if state == StateName::Discarded {
            assert!(!redriven.unwrap().state.is_terminal());
        } else {
            assert!(
                matches!(redriven, Err(Error::WrongState(_))),
                "{redriven:?}"
            );
        }
    }
}
