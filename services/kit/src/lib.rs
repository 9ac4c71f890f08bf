//! What every service needs and no service is about: settings with their origins, logging, metrics,
//! probes, and the engines that the ports work on.

#[cfg(feature = "engines")]
mod engines;
mod metered;
mod probes;
mod scheduler;
mod settings;
mod telemetry;
mod tenants;

#[cfg(feature = "engines")]
pub use self::engines::{Engines, OpenEngines, keys as engine_keys};
pub use self::{
    metered::{metered_log, metered_store},
    probes::{Metrics, serve_probes},
    scheduler::{config as scheduler_config, keys as scheduler_keys},
    settings::{Arguments, Faults, Key, Origin, Reader, Settings, bind},
    telemetry::{KEYS as TELEMETRY_KEYS, start as start_telemetry},
};
