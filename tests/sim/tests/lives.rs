//! Many lives, each from its seed: no promise is broken, and every life replays exactly.

/// As many as fit into a minute of one core.
const N_SEEDS: u64 = 200;

#[test]
fn no_life_breaks_a_promise() {
    for seed in 0..N_SEEDS {
        if let Some(broken) = sim::live(seed, sim::N_TASKS).broken {
            let (_, history) = sim::live_and_tell(seed, sim::N_TASKS, sim::Scenario::Storm, 60);
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

/// How many lives of a scenario, and tasks in each.
const N_SCENES: u64 = 20;
const N_TASKS: u64 = 400;

/// Lives a scenario again and again, and gives how many tasks were begun, how often one was begun again, and how often a
/// shard was claimed.
fn scenes(scenario: sim::Scenario) -> (u64, u64, u64) {
    let (mut n_begun, mut n_again, mut n_claims) = (0, 0, 0);
    for seed in 0..N_SCENES {
        let life = sim::live_as(seed, N_TASKS, scenario);
        assert_eq!(life.broken, None, "seed {seed}");
        n_begun += life.n_begun;
        n_again += life.n_again;
        n_claims += life.n_claims;
    }
    assert!(
        n_begun > N_SCENES * N_TASKS / 2,
        "{n_begun} tasks are begun"
    );
    (n_begun, n_again, n_claims)
}

#[test]
fn nothing_runs_twice_though_all_shards_move_under_load() {
    let (n_begun, n_again, n_claims) = scenes(sim::Scenario::Moves);
    assert!(n_claims > 20 * N_SCENES, "only {n_claims} claims");
    assert_eq!(n_again, 0, "of {n_begun} tasks over {n_claims} claims");
}

#[test]
fn nothing_runs_twice_though_members_crash_while_workers_live() {
    let (n_begun, n_again, n_claims) = scenes(sim::Scenario::Crashes);
    assert!(n_claims > 10 * N_SCENES, "only {n_claims} claims");
    assert_eq!(n_again, 0, "of {n_begun} tasks over {n_claims} claims");
}
