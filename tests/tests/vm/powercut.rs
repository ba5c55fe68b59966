//! The short form of `make torture`: a few power cuts of each scenario, one of each booted.

use anyhow::{Result, ensure};
use ros_tests::artifacts;
use ros_tests::powercut::torture::{Order, run};

pub fn every_power_cut_leaves_the_old_or_the_new_machine() -> Result<()> {
    let order = Order {
        dir: artifacts::checkout().join("target/test/powercut"),
        cuts: 20,
        boots: 4,
        seed: 2,
        only: Vec::new(),
    };
    let report = run(&order)?;
    println!("{}\n{}", report.table(), report.line());
    ensure!(report.lost() == 0, "{}", report.table());
    ensure!(report.cuts() == order.cuts, "{}", report.line());
    // The check is worth something: the writer without fsync lost what it wrote.
    ensure!(report.toys_lost() > 0, "no cut lost a write without fsync");
    Ok(())
}
