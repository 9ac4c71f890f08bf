//! Many lives, each from its seed: no promise is broken, and every life replays exactly.

/// As many as fit into a minute of one core.
const N_SEEDS: u64 = 200;

#[test]
fn no_life_breaks_a_promise() {
    for seed in 0..N_SEEDS {
        if let Some(broken) = sim::live(seed, sim::N_TASKS).broken {
            let (_, history) = sim::live_and_tell(seed, sim::N_TASKS, 60);
            panic!("seed {seed}: {broken:?}\n{history}");
        }
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 1_000..1_010 {
        let first = sim::live_thoroughly(seed, 100);
        assert_eq!(first, sim::live_thoroughly(seed, 100), "seed {seed}");
    }
}
