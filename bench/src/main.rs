//! The core alone: whole lives of tasks through the pure machines, beside a floor that only queues; first with nothing
//! asked for, then with everything on and many that wait; and a shard that is taken over with many parked tasks.
//!
//! `cargo run --release -p bench` prints a table; `bench/README.md` explains it and keeps the figures.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod allocation;
mod floor;
mod full;
mod lives;
mod recovery;

/// Lives in one round.
const N: u64 = 2_000_000;
const ROUNDS: usize = 5;
/// Lives in one round while many wait.
const N_AMONG_MANY: u64 = 400_000;
/// Looks at why a task waits.
const N_LOOKS: u32 = 200_000;
/// Parked tasks of the shard that is taken over.
const N_PARKED: u64 = 1_000_000;

fn main() {
    // A child that measures one thing, while it holds nothing that it could use again.
    let mut arguments = std::env::args().skip(1);
    if let (Some(what), Some(n)) = (arguments.next(), arguments.next()) {
        let n = n.parse().expect("how many is a number");
        return measure_alone(&what, n);
    }
    println!("{N} lives a round, {ROUNDS} rounds, medians of the time that a core works");
    for n in [100_000, 1_000_000] {
        println!(
            "memory: {n:>7} waiting tasks   {:>6.0} bytes a task beyond its payload",
            in_children::<1>(PLAIN, n)[0]
        );
    }
    let floor = rate(floor::run);
    println!("floor: queue and map only      {floor:>12.0} lives/s");
    for (name, retention) in [("results not kept", false), ("results kept", true)] {
        let core = rate(|n| lives::run(n, retention));
        println!(
            "core:  {name:<22}  {core:>12.0} lives/s  {:>5.2} of the floor",
            core / floor
        );
    }
    everything_on(floor);
    taken_over();
}

/// What of memory is measured in a process of its own.
const PLAIN: &str = "plain";
const RECORDS: &str = "records";
const CROWD: &str = "crowd";
const RECOVERY: &str = "recovery";

/// Prints numbers, in a line.
fn measure_alone(what: &str, n: u64) {
    match what {
        PLAIN => println!("{}", lives::bytes_per_waiting_task(n)),
        RECORDS => println!("{}", full::bytes_of_records(n)),
        CROWD => {
            let crowd = full::Crowd::new(n);
            println!("{}", crowd.map_or(f64::NAN, |crowd| crowd.bytes_each));
        }
        RECOVERY => {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            let runtime = runtime.expect("a runtime without drivers can always be built");
            let took = runtime.block_on(recovery::run(n));
            let (ready, loaded) = (took.ready.as_secs_f64(), took.loaded.as_secs_f64());
            println!("{ready} {} {loaded} {}", took.bytes_idle, took.bytes_each);
        }
        _ => panic!("{what} is none of {PLAIN}, {RECORDS}, {CROWD}, {RECOVERY}"),
    }
}

/// The same in a child: the medians of a few.
fn in_children<const N: usize>(what: &str, n: u64) -> [f64; N] {
    let own = std::env::current_exe().expect("the system knows what runs");
    let measured: Vec<Vec<f64>> = (0..3)
        .map(|_| {
            let mut child = std::process::Command::new(&own);
            let output = child.args([what, &n.to_string()]).output();
            let output = output.expect("a program can be run again");
            let text = String::from_utf8_lossy(&output.stdout);
            let numbers = text.split_whitespace().map(str::parse);
            numbers
                .map(|n| n.expect("a child prints numbers"))
                .collect()
        })
        .collect();
    std::array::from_fn(|i| median(measured.iter().map(|numbers| numbers[i]).collect()))
}

/// Lives, memory and explanations, for more and more that wait.
fn everything_on(floor: f64) {
    println!("everything on: limits, keys, groups and priorities; {N_AMONG_MANY} lives a round");
    let [records] = in_children(RECORDS, 1_000_000);
    println!("  {records:.0} bytes of each task are its payload and options");
    let mut first = None;
    for n in [1_000, 10_000, 100_000, 1_000_000, 10_000_000] {
        let [bytes] = in_children(CROWD, n);
        let Some(mut crowd) = full::Crowd::new(n) else {
            println!("  {n:>10} waiting do not fit into memory here");
            break;
        };
        let rates: Vec<f64> = (0..ROUNDS).map(|_| crowd.lives(N_AMONG_MANY)).collect();
        let looks: Vec<f64> = (0..ROUNDS).map(|_| crowd.explain(N_LOOKS)).collect();
        let asked = crowd.key_reads_a_life();
        let (rate, look) = (median(rates), median(looks));
        let each = 1e9 / rate;
        println!(
            "  {n:>10} waiting  {rate:>9.0} lives/s  {:>5.3} of the floor  {each:>6.0} ns a life, {:>4.2} times the first  \
             {:>5.0} bytes a task beyond its record  {look:>5.0} ns to explain  \
             {:>4.2} keys asked for a life",
            rate / floor,
            each / *first.get_or_insert(each),
            bytes - records,
            asked,
        );
    }
}

/// A new owner's first work.
fn taken_over() {
    let [ready, idle, loaded, each] = in_children(RECOVERY, N_PARKED);
    println!("taken over: a shard with {N_PARKED} parked tasks, from a store in memory");
    println!(
        "  works after {:.1} ms and {:.0} KiB",
        ready * 1e3,
        idle / 1024.0
    );
    println!(
        "  has all in memory, when all are due at once, after {loaded:.2} s; {each:.0} bytes each"
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn rate(run: impl Fn(u64)) -> f64 {
    let seconds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = allocation::core_time();
            run(N);
            (allocation::core_time() - start).as_secs_f64()
        })
        .collect();
    #[expect(clippy::cast_precision_loss, reason = "the number of lives is small")]
    let n = N as f64;
    n / median(seconds)
}
