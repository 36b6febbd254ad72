//! Who finds what: each checker, and the planted bugs that prove that it does (`planted.rs`).
//!
//! | Checker | What holds | Planted bug that it finds | Alone |
//! | --- | --- | --- | --- |
//! | X1 [`Ledger`](Checker::Ledger) | what one account gains another loses, at every epoch | P15: an epoch leaves the changes of a table to the next | yes |
//! | X2 [`Effects`](Checker::Effects) | every record has its effect as often as the guarantee says | P14: a restart takes for done what was left to do | yes |
//! | X3 [`Order`](Checker::Order) | under each key, effects come in the order of the input | P19: the records of a key go to several partitions | yes |
//! | X4 [`Conservation`](Checker::Conservation) | what went in came out or was set aside | P8: dead letters are sent outside of the transaction | with X2, which sees what, and not only how many |
//! | X5 [`Seen`](Checker::Seen) | what a reader saw is there in the end | P16: a reader sees what is not durable | yes |
//! | X6 [`Digests`](Checker::Digests) | the state is what its changelog makes of it, in log, marker and store | P2: delta and marker in two transactions; P3_uncommitted: state written behind before its commit is known | yes |
//! | X8 [`Repeat`](Checker::Repeat) | a seed goes one way | P17: ids differ from run to run | yes |
//! | X9 [`Progress`](Checker::Progress) | the lag goes once everything is whole | P4: offsets are one less; P18: an inbox that was full is never filled again | yes |
//! | X10 [`Bounds`](Checker::Bounds) | what waits and what is kept stays within its bounds | P13: input is taken although there is no room; P20: tables take the memory of others | yes |
//! | [`Run`](Checker::Run) | processes, stores and log do as they say: what the program itself refuses counts here | P1: offsets before the delta; P3: a store ahead of the durable log; P6: a revocation is ignored; P7: state is merged before its commit is known; P21: a changelog is read to what shows at once | yes |
//!
//! X7, X11 and X12 are of parts that are not here: orders on an exchange, alarms, and logs of other makers.

/// A checker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Checker {
    /// X1: what one account gains another loses, at every epoch.
    Ledger,
    /// X2: every record has its effect as often as the guarantee says.
    Effects,
    /// X3: under each key, effects come in the order of the input.
    Order,
    /// X4: what went in came out or was set aside.
    Conservation,
    /// X5: what a reader saw is there in the end.
    Seen,
    /// X6: the state is what its changelog makes of it, in log, marker and store.
    Digests,
    /// X8: a seed goes one way.
    Repeat,
    /// X9: the lag goes once everything is whole.
    Progress,
    /// X10: what waits and what is kept stays within its bounds.
    Bounds,
    /// No checker's: a process, store or log did not do as it says.
    Run,
}
