//! The scheduler against its promises, and the simulation against what is known.

use super::*;
use crate::load::Ending;
use crate::simulate::scenario::tests::reference;

const MIX: &str = "1:0.4,2:0.3,4:0.2,8:0.1";

#[test]
#[ignore]
fn probe() {
    let plan = Plan {
        scenario: reference(),
        policies: Kind::ALL.to_vec(),
        source: Source::Process {
            process: Process::Poisson,
            mix: MIX.parse().unwrap(),
            loads: vec![0.5, 0.8, 0.95, 1.0, 1.2, 2.0, 3.0],
            length: Length::Seconds(60.0),
        },
    };
    let start = std::time::Instant::now();
    let sweeps = plan.run(&|_| {}).unwrap();
    println!("{} requests in {:?}", plan.requests().unwrap(), start.elapsed());
    println!("{}", crate::simulate::report::markdown(&plan, &sweeps));
    let _ = Ending::Late;
}
