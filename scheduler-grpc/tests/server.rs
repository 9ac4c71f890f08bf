//! The services over a real scheduler with ports in memory, called by the client.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use scheduler_core::{
    ApplicationPath, CancelFilter, CancelMany, Config, Error, ErrorCode, Failure, Heartbeat, Held,
    LeaseLost, ListTasks, Outcome, PipelinePath, PipelineSpec, Poll, RedriveMany, Report, Revision,
    Scheduler, StateName, Submit, TaskOptions, memory,
};
use scheduler_grpc::{
    client::{Client, connect},
    server::{Access, Limits, Services},
};
use tokio::{sync::oneshot, task::JoinHandle, time::Instant};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

struct Served {
    channel: Channel,
    client: Client,
    path: PipelinePath,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

async fn serve(access: Access) -> Served {
    let scheduler = Scheduler::start(Config::default(), memory::ports())
        .await
        .unwrap();
    let services = Services::new(scheduler, access, Limits::default()).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel = connect(&listener.local_addr().unwrap().to_string()).unwrap();
    let path = scheduler_core::path("acme", "shop", "mail").unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = services.serve(listener, async {
        // A test that does not keep the other end wants no shutdown.
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
    });
    Served {
        client: Client::new(channel.clone(), path.tenant.clone()),
        channel,
        path,
        stop,
        serving: tokio::spawn(async { serving.await.unwrap() }),
    }
}

fn spec() -> PipelineSpec {
    PipelineSpec {
        steps: [].into(),
        defaults: TaskOptions::default(),
        n_partitions: 2,
        ..PipelineSpec::default()
    }
}

fn poll(credit: usize) -> Poll {
    Poll::new("worker-1".try_into().unwrap(), credit)
}

#[tokio::test]
async fn a_task_goes_all_the_way_over_the_wire() {
    let Served { client, path, .. } = serve(Access::TenantRequired).await;
    client.create_pipeline(&path, &spec()).await.unwrap();
    let data = r#"{"to":"you"}"#;
    let submitted = client.submit(&path, Submit::new(data)).await.unwrap();
    assert_eq!(
        (submitted.state, submitted.repeated),
        (StateName::Available, false)
    );

    let leased = client.lease(&path, poll(1)).await.unwrap();
    let task = &leased.tasks[0];
    assert_eq!((task.id, &task.data[..]), (submitted.id, data.as_bytes()));
    let heartbeat = Heartbeat {
        id: task.id,
        token: task.token,
        from_handler: true,
        progress: Some("0.5".into()),
    };
    let renewed = client.heartbeat(vec![heartbeat]).await.unwrap();
    assert_eq!(renewed, [Ok(Config::default().lease)]);
    let running = client.get(task.id).await.unwrap();
    assert_eq!(running.progress.as_deref(), Some(b"0.5".as_slice()));

    let outcome = Outcome::Completed { result: "1".into() };
    let report = Report {
        id: task.id,
        token: task.token,
        outcome,
    };
    assert_eq!(client.report_batch(vec![report]).await.unwrap(), [Ok(())]);
    let ended = client.wait(task.id, Duration::from_secs(5)).await.unwrap();
    assert_eq!(
        (ended.state, ended.result.as_deref()),
        (StateName::Completed, Some(b"1".as_slice()))
    );
    let listed = client.list(&path, ListTasks::default()).await.unwrap();
    assert_eq!((listed.tasks, listed.backlog), (vec![ended], 0));
}

#[tokio::test]
async fn many_tasks_are_counted_and_then_cancelled_under_an_id() {
    let Served { client, path, .. } = serve(Access::TenantRequired).await;
    client.create_pipeline(&path, &spec()).await.unwrap();
    for priority in [1, 2] {
        let mut submit = Submit::new("{}");
        submit.options.group = Some("g".try_into().unwrap());
        submit.options.priority = Some(priority.try_into().unwrap());
        client.submit(&path, submit).await.unwrap();
    }
    let filter = CancelFilter {
        group: Some("g".try_into().unwrap()),
        states: [StateName::Available].into(),
        ..CancelFilter::default()
    };
    let preview = client.preview_cancel(&path, filter.clone()).await.unwrap();
    let n_found = preview.n_found.get(&StateName::Available).unwrap_or(&0);
    assert_eq!(n_found + preview.n_backlog_max, 2);
    let mut wish = CancelMany {
        filter,
        all: false,
        id: Some("mistake".try_into().unwrap()),
    };
    let done = loop {
        let bulk = client.cancel_many(&path, wish.clone()).await.unwrap();
        if bulk.progress.is_over {
            break bulk;
        }
    };
    assert_eq!(
        (done.id.as_str(), done.progress.n_cancelled),
        ("mistake", 2)
    );
    wish.filter = CancelFilter::default();
    wish.id = None;
    let refused = client.cancel_many(&path, wish).await;
    assert!(matches!(refused, Err(Error::Invalid(fault)) if fault.field == "filter"));
}

#[tokio::test]
async fn a_lost_lease_comes_back_by_poll_and_by_report() {
    let Served { client, path, .. } = serve(Access::TenantRequired).await;
    client.create_pipeline(&path, &spec()).await.unwrap();
    let id = client.submit(&path, Submit::new("{}")).await.unwrap().id;
    let token = client.lease(&path, poll(1)).await.unwrap().tasks[0].token;
    let held = Held { id, token };
    let listening = tokio::spawn({
        let (client, path) = (client.clone(), path.clone());
        async move {
            client
                .lease(
                    &path,
                    Poll {
                        held: vec![held],
                        ..poll(0)
                    },
                )
                .await
        }
    });
    assert_eq!(client.cancel(id).await.unwrap().state, StateName::Cancelled);
    let lost = listening.await.unwrap().unwrap().lost;
    assert_eq!((lost.len(), lost[0].0), (1, held));
    let outcome = Outcome::Interrupted;
    let refused = client
        .report_batch(vec![Report { id, token, outcome }])
        .await
        .unwrap();
    assert!(matches!(
        refused[0],
        Err(Error::LeaseLost(LeaseLost::Cancelled | LeaseLost::Ended))
    ));
}

#[tokio::test]
async fn errors_come_back_as_they_are_in_process() {
    let Served { client, path, .. } = serve(Access::TenantRequired).await;
    let missing = client.pipeline(&path).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound { what, .. } if what == "pipeline"));
    client.create_pipeline(&path, &spec()).await.unwrap();
    let exists = client.create_pipeline(&path, &spec()).await.unwrap_err();
    assert!(matches!(exists, Error::Exists { .. }));
    let stale = client.update_pipeline(&path, Revision(9), &spec()).await;
    let expected = Error::StaleRevision {
        expected: 9,
        found: 1,
    };
    assert_eq!(stale, Err(expected));
    let unsaid = client.update_pipeline(&path, Revision(0), &spec()).await;
    assert_eq!(unsaid, Err(Error::RevisionRequired));
    let bad = client
        .submit_batch(&path, vec![Submit::new("{}"), Submit::new("[1]")])
        .await
        .unwrap();
    assert!(bad[0].is_ok() && bad[1].is_err());
}

#[tokio::test]
async fn a_tenant_sees_nothing_of_another() {
    let Served {
        client,
        path,
        channel,
        ..
    } = serve(Access::TenantRequired).await;
    client.create_pipeline(&path, &spec()).await.unwrap();
    let id = client.submit(&path, Submit::new("{}")).await.unwrap().id;
    let other = Client::new(channel, "other".try_into().unwrap());
    assert!(matches!(other.get(id).await, Err(Error::NotFound { .. })));
    assert!(matches!(
        other.cancel(id).await,
        Err(Error::NotFound { .. })
    ));
    assert_eq!(other.applications().await, Ok(Vec::new()));
    let application: ApplicationPath = path.application_path();
    assert_eq!(
        client.application(&application).await.unwrap().path,
        application
    );
}

#[tokio::test]
async fn a_failure_that_is_not_retryable_is_a_dead_letter_with_its_detail() {
    let Served { client, path, .. } = serve(Access::TenantRequired).await;
    client.create_pipeline(&path, &spec()).await.unwrap();
    let id = client.submit(&path, Submit::new("{}")).await.unwrap().id;
    let token = client.lease(&path, poll(1)).await.unwrap().tasks[0].token;
    let failure = Failure {
        code: ErrorCode::try_from("bad_input").unwrap(),
        message: "no".into(),
        retryable: false,
        detail: r#"{"steps":[]}"#.into(),
    };
    let outcome = Outcome::Failed(failure.clone());
    client
        .report_batch(vec![Report { id, token, outcome }])
        .await
        .unwrap();
    let task = client.get(id).await.unwrap();
    assert_eq!(task.state, StateName::Discarded);
    assert_eq!(task.errors[0].failure, failure);
}

#[tokio::test]
async fn a_redrive_tells_every_step() {
    let Served { client, path, .. } = serve(Access::TenantRequired).await;
    client.create_pipeline(&path, &spec()).await.unwrap();
    client.submit(&path, Submit::new("{}")).await.unwrap();
    let fail = async || {
        let task = client.lease(&path, poll(1)).await.unwrap().tasks.remove(0);
        let failure = Failure {
            code: ErrorCode::try_from("bad_input").unwrap(),
            message: "no address".into(),
            retryable: false,
            detail: "".into(),
        };
        let (id, token) = (task.id, task.token);
        let outcome = Outcome::Failed(failure);
        let answers = client.report_batch(vec![Report { id, token, outcome }]);
        answers.await.unwrap().remove(0).unwrap();
        id
    };
    let id = fail().await;
    let mut steps = 0;
    let redrive = client.redrive_many(&path, RedriveMany::default(), |_| steps += 1);
    let (redriving, again) = tokio::join!(redrive, fail());
    let redriving = redriving.unwrap();
    assert_eq!(again, id);
    assert!(steps > 0);
    // Nobody waits for the last one of all; the next redrive finds it.
    assert_eq!((redriving.n_found, redriving.n_redriven), (1, 1));
    let bad = RedriveMany {
        limit: 200_000,
        ..RedriveMany::default()
    };
    let refused = client.redrive_many(&path, bad, |_| {}).await;
    assert!(matches!(refused, Err(Error::Invalid(fault)) if fault.field == "limit"));
}

#[tokio::test]
async fn a_nameless_call_is_refused_where_tenants_are_required() {
    use scheduler_grpc::pb::{
        ListApplicationsRequest, application_service_client::ApplicationServiceClient,
    };
    for (access, expected) in [
        (Access::TenantRequired, Code::Unauthenticated),
        (Access::Open, Code::Ok),
    ] {
        let Served { channel, .. } = serve(access).await;
        let mut client = ApplicationServiceClient::new(channel);
        let answer = client.list(ListApplicationsRequest {}).await;
        assert_eq!(
            answer.map_or_else(|status| status.code(), |_| Code::Ok),
            expected
        );
    }
}

#[tokio::test]
async fn a_shutdown_empties_long_polls_and_turns_health() {
    let Served {
        client,
        path,
        channel,
        stop,
        serving,
    } = serve(Access::TenantRequired).await;
    client.create_pipeline(&path, &spec()).await.unwrap();
    let mut health = HealthClient::new(channel);
    let service = "workload.v1.WorkerService".to_owned();
    let answer = health.check(HealthCheckRequest { service }).await.unwrap();
    assert_eq!(answer.into_inner().status, 1);

    let began = Instant::now();
    let polling = tokio::spawn(async move { client.lease(&path, poll(1)).await });
    stop.send(()).unwrap();
    let leased = polling.await.unwrap().unwrap();
    assert!(leased.tasks.is_empty() && began.elapsed() < Duration::from_secs(5));
    drop(health);
    serving.await.unwrap();
}

#[tokio::test]
async fn a_poll_is_answered_before_its_deadline() {
    use scheduler_grpc::pb::{PollRequest, worker_service_client::WorkerServiceClient};
    let Served {
        client,
        path,
        channel,
        ..
    } = serve(Access::Open).await;
    client.create_pipeline(&path, &spec()).await.unwrap();
    let mut request = tonic::Request::new(PollRequest::from((&path, poll(1))));
    request
        .metadata_mut()
        .insert("workload-tenant", "acme".parse().unwrap());
    request.set_timeout(Duration::from_millis(600));
    let answer = WorkerServiceClient::new(channel)
        .poll(request)
        .await
        .unwrap();
    assert!(answer.into_inner().tasks.is_empty());
}
