//! Settings that say something of single tenants: `acme=3, globex=2`.

use std::collections::BTreeMap;

use scheduler_core::{
    TenantName,
    pipeline::limits::{Limit, Rate},
};

use crate::{Reader, settings::duration};

impl Reader<'_> {
    /// A weight for each of some tenants.
    pub(crate) fn weights(&mut self, name: &'static str) -> BTreeMap<TenantName, u32> {
        let text = self.text(name);
        let weights = entries(&text).map(|(tenant, weight)| Some((tenant?, weight.parse().ok()?)));
        weights.collect::<Option<_>>().unwrap_or_else(|| {
            let what = "tenants with their weights, like acme=3, globex=2";
            self.fault(format!("{name} must be {what}, and is {text:?}"));
            BTreeMap::new()
        })
    }

    /// Limits for each of some tenants: a number runs at once, a number per time starts.
    pub(crate) fn limits(&mut self, name: &'static str) -> BTreeMap<TenantName, Limit> {
        let text = self.text(name);
        let mut limits = BTreeMap::<_, Limit>::new();
        for (tenant, given) in entries(&text) {
            let read = || {
                let limit = limits.entry(tenant?).or_default();
                match given.split_once('/') {
                    Some((n, per)) => {
                        let (n, per) = (n.parse().ok()?, duration(per)?);
                        limit.rate = Some(Rate { n, per });
                    }
                    None => limit.concurrency = Some(given.parse().ok()?),
                }
                Some(())
            };
            if { read }().is_none() {
                let what = "tenants with their limits, like acme=50, acme=100/1s";
                self.fault(format!("{name} must be {what}, and is {text:?}"));
                return BTreeMap::new();
            }
        }
        limits
    }
}

/// The parts of a list, each a tenant and what is said of it.
fn entries(text: &str) -> impl Iterator<Item = (Option<TenantName>, &str)> {
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts.map(|part| match part.split_once('=') {
        Some((tenant, said)) => (tenant.trim().try_into().ok(), said.trim()),
        None => (None, part),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_list_names_tenants_and_what_is_said_of_them() {
        let found: Vec<_> = entries(" acme = 3,globex=2, ").collect();
        let name = |text: &str| TenantName::try_from(text).ok();
        assert_eq!(found, [(name("acme"), "3"), (name("globex"), "2")]);
        assert_eq!(
            entries("No Name=1, x")
                .map(|(name, _)| name)
                .collect::<Vec<_>>(),
            [None, None]
        );
        assert_eq!(entries("").count(), 0);
        assert_eq!(duration("1s"), Some(Duration::from_secs(1)));
    }
}
