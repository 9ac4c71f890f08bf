//! Who runs the commands of a step: executors by name, and connections to them.

use std::collections::BTreeMap;

use scheduler_core::ExecutorName;
use scheduler_grpc::client::{ConnectError, connect};
use tonic::transport::Channel;

/// Where each executor listens: `http://HOST:PORT`, `HOST:PORT` or `unix:/PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Executors {
    /// Each name has an endpoint of its own: the containers of a pod.
    Named(BTreeMap<ExecutorName, String>),
    /// One endpoint serves every name: programs of this machine.
    Any(String),
}

/// Connections to executors, each made when it is first used, and again when it broke.
#[derive(Debug)]
pub(crate) struct Connections {
    executors: Executors,
    channels: BTreeMap<String, Channel>,
}

impl Connections {
    /// Checks that every endpoint can be one.
    pub(crate) fn new(executors: Executors) -> Result<Self, ConnectError> {
        let endpoints = match &executors {
            Executors::Named(named) => named.values().cloned().collect(),
            Executors::Any(endpoint) => vec![endpoint.clone()],
        };
        let connected = endpoints
            .into_iter()
            .map(|endpoint| Ok((endpoint.clone(), connect(&endpoint)?)));
        let channels: BTreeMap<_, _> = connected.collect::<Result<_, ConnectError>>()?;
        Ok(Self {
            executors,
            channels,
        })
    }

    /// The connection to an executor; `None` if the pod has none of that name.
    pub(crate) fn to(&self, executor: &ExecutorName) -> Option<Channel> {
        let endpoint = match &self.executors {
            Executors::Named(named) => named.get(executor)?,
            Executors::Any(endpoint) => endpoint,
        };
        self.channels.get(endpoint).cloned()
    }

    /// The endpoints, to see whether they can be reached.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.channels.keys().map(String::as_str)
    }
}
