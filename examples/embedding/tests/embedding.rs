//! What a service that links the scheduler tests: its own store by the suite, its handlers in virtual time, what
//! it prints, and another runtime.

use std::{process::Command, sync::Arc, time::Duration};

use async_trait::async_trait;
use embedding::{Counted, Foreign, Mailer, mail::deliver};
use futures::future::Either;
use scheduler_core::{
    Config, Ports, StateName, Submit, Timestamp,
    conformance::Home,
    memory::{self, ManualClock},
    port::TaskStore,
    testing::{TestScheduler, VirtualClock},
};

const MINUTE: Duration = Duration::from_secs(60);

/// Where the store keeps what must last: here, a store in memory that outlives each opening.
struct Place(memory::Store);

#[async_trait]
impl Home<dyn TaskStore> for Place {
    async fn open(&self) -> Arc<dyn TaskStore> {
        Arc::new(Counted::new(Arc::new(self.0.clone())))
    }
}

async fn empty_store() -> Place {
    let clock = ManualClock::at(Timestamp::from_millis(1_700_000_000_000));
    Place(memory::Store::new(Arc::new(clock)))
}

mod store {
    scheduler_core::task_store_conformance!(super::empty_store);
}

#[tokio::test(start_paused = true)]
async fn a_mail_that_was_put_off_is_sent_when_its_time_has_come() {
    let clock = VirtualClock::new();
    let memory = memory::ports_on(Arc::new(clock.clone()));
    let store = Arc::new(Counted::new(memory.store.clone()));
    let ports = Ports {
        store: store.clone(),
        ..memory
    };
    let started = TestScheduler::start_on(clock, Config::default(), ports).await;
    let test = started.unwrap();
    let mailer = Mailer::start(test.scheduler().clone()).await.unwrap();
    let tomorrow = Submit {
        delay: Some(Duration::from_secs(24 * 3600)),
        ..Submit::new(r#"{"to":"ada@example.org"}"#)
    };
    let submitted = test.submit(mailer.path(), tomorrow).await.unwrap();
    let send = |task| async move { deliver(&task) };
    assert_eq!(test.work(mailer.path(), send).await, Ok(0));
    test.advance(Duration::from_secs(24 * 3600)).await;
    assert_eq!(test.work(mailer.path(), send).await, Ok(1));
    let task = mailer.wait(submitted.id, Duration::ZERO).await.unwrap();
    assert_eq!(task.state, StateName::Completed);
    assert_eq!(store.n_ended(), 1);
}

#[test]
fn the_service_prints_what_became_of_its_mail() {
    let run = Command::new(env!("CARGO_BIN_EXE_embedding"))
        .output()
        .unwrap();
    assert!(run.status.success(), "{run:?}");
    assert_eq!(
        String::from_utf8(run.stdout).unwrap(),
        "mail to ada@example.org: completed\n\
         mail to grace: discarded, since the address has no @\n\
         mail to edsger@example.org: completed\n\
         ends saved: 3\n"
    );
}

#[test]
fn a_program_on_another_runtime_awaits_its_calls() {
    let foreign = Foreign::start(Config::default(), memory::ports).unwrap();
    let state = futures::executor::block_on(async {
        let mailer = foreign.run(Mailer::start).await.unwrap();
        let (sender, waiter) = (mailer.clone(), mailer.clone());
        let send = foreign.run(|_| async move { sender.send("ada@example.org").await });
        let id = send.await.unwrap();
        let work = foreign.run(|_| async move {
            mailer.work().await;
            Ok(())
        });
        // The worker works until the shutdown; what is asked here is when the mail is sent.
        let wait = foreign.run(move |_| async move { waiter.wait(id, MINUTE).await });
        match futures::future::select(Box::pin(wait), Box::pin(work)).await {
            Either::Left((task, _)) => task.unwrap().state,
            Either::Right(_) => panic!("the worker stopped before the scheduler"),
        }
    });
    assert_eq!(state, StateName::Completed);
    foreign.shutdown();
}

/// Lines without their indentation, since a guide shows excerpts.
fn flat(text: &str) -> String {
    text.lines()
        .map(|line| line.trim().to_owned() + "\n")
        .collect()
}

#[test]
fn the_guide_shows_this_code() {
    let guide = include_str!("../../../docs/embedding.md");
    let code = [
        include_str!("../src/main.rs"),
        include_str!("../src/mail.rs"),
        include_str!("../src/store.rs"),
        include_str!("../src/foreign.rs"),
        include_str!("embedding.rs"),
    ];
    let code: String = code.into_iter().map(flat).collect();
    let blocks = guide.split("```rust\n").skip(1);
    let snippets: Vec<_> = blocks
        .filter_map(|block| block.split("```").next())
        .collect();
    assert!(snippets.len() > 5, "the guide has snippets");
    for snippet in snippets {
        assert!(
            code.contains(&flat(snippet)),
            "not in the example:\n{snippet}"
        );
    }
}
