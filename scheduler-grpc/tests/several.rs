//! One client, several servers.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use scheduler_core::{ApplicationPath, Config, Scheduler, memory};
use scheduler_grpc::{
    client::{Client, connect},
    server::{Access, Limits, Services},
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

struct Server {
    address: String,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Server {
    async fn start(scheduler: &Scheduler) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let services = Services::new(scheduler.clone(), Access::Open, Limits::default()).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = services.serve(listener, async {
            stopped.await.ok();
        });
        let serving = tokio::spawn(async { serving.await.unwrap() });
        Self {
            address,
            stop,
            serving,
        }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.serving.await.unwrap();
    }
}

#[tokio::test]
async fn a_client_goes_on_at_the_next_server_that_can_be_reached() {
    let scheduler = Scheduler::start(Config::default(), memory::ports());
    let scheduler = scheduler.await.unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nowhere = nobody.local_addr().unwrap();
    drop(nobody);
    let (one, other) = (
        Server::start(&scheduler).await,
        Server::start(&scheduler).await,
    );
    let endpoints = format!("{nowhere},http://{},{}", one.address, other.address);
    let application = ApplicationPath {
        tenant: "acme".try_into().unwrap(),
        application: "shop".try_into().unwrap(),
    };
    let client = Client::new(connect(&endpoints).unwrap(), application.tenant.clone());
    client.create_application(&application).await.unwrap();
    one.stop().await;
    let found = client.application(&application).await;
    assert_eq!(found.unwrap().path, application);
    other.stop().await;
    assert!(client.application(&application).await.is_err());
}
