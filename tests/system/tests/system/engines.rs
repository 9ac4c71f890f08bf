//! The services on real Kafka and TiDB. One of these tests at a time, since each loads the machine.

mod chaos;
mod cluster;
mod deletion;
mod faults;
mod history;
mod keys;
mod load;
mod members;
mod outages;
mod pressure;
mod scale;
mod truth;
