//! The services on real Kafka and TiDB. One of these tests at a time, since each loads the machine.

mod chaos;
mod cluster;
mod deletion;
mod failover;
mod faults;
mod growth;
mod history;
mod key;
mod keys;
mod links;
mod load;
mod members;
mod outages;
mod pressure;
mod replies;
mod scale;
mod setup;
mod siege;
mod truth;
mod usage;
