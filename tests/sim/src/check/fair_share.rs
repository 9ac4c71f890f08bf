//! fair-share: tenants that compete in one pool get shares by weight.
//!
//! Measured by Jain's index of the weighted shares (R. Jain et al., DEC-TR-301, 1984): 1 if all are equal.

use std::collections::BTreeMap;

use scheduler_core::TenantName;

use super::{Check, Found, Truth};
use crate::{fact::Fact, task::Kind};

/// The least index that is fair.
const FAIR: f64 = 0.95;

#[derive(Debug, Default)]
pub(super) struct FairShare {
    /// While tenants compete: how many tasks of each were handed out.
    started: Option<BTreeMap<TenantName, u32>>,
    n_each: u32,
}

impl Check for FairShare {
    fn promise(&self) -> &'static str {
        "fair-share"
    }

    fn see(&mut self, fact: &Fact, truth: Truth<'_>) -> Found {
        match fact {
            Fact::Competing(n_each) => {
                let tenants = truth.pipelines.iter();
                let none = tenants.map(|pipeline| (pipeline.path.tenant.clone(), 0));
                self.started = Some(none.collect());
                self.n_each = u32::try_from(*n_each).unwrap_or(u32::MAX);
                Ok(())
            }
            Fact::Granted(grant) if Kind::of(&grant.name) == Kind::Even => {
                let (Some(started), Some(pipeline)) = (
                    &mut self.started,
                    truth.pipeline(grant.held.id.shard.pipeline),
                ) else {
                    return Ok(());
                };
                let n = started.entry(pipeline.path.tenant.clone()).or_default();
                *n += 1;
                // This one has nothing left to compete with.
                if *n >= self.n_each {
                    return self.judge(truth);
                }
                Ok(())
            }
            Fact::Competed => self.judge(truth),
            _ => Ok(()),
        }
    }
}

impl FairShare {
    fn judge(&mut self, truth: Truth<'_>) -> Found {
        let Some(started) = self.started.take() else {
            return Ok(());
        };
        let weights = &truth.config.tenant_weights;
        let shares = started.iter().map(|(tenant, n)| {
            let weight = weights.get(tenant).copied().unwrap_or(1);
            f64::from(*n) / f64::from(weight)
        });
        let shares: Vec<_> = shares.collect();
        let index = jain(&shares);
        if index >= FAIR {
            return Ok(());
        }
        let why = format!("Jain's index is {index:.3} of what each tenant was served: {started:?}");
        Err((None, why))
    }
}

fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    let n = u32::try_from(shares.len()).map_or(f64::MAX, f64::from);
    // Nothing was handed out, which is no share for anybody.
    if squares == 0.0 {
        return 0.0;
    }
    sum * sum / (n * squares)
}
