//! What leads nowhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::graph::{Graph, Link, Target};
use super::stages::Stages;
use crate::config::Code;
use crate::config::error::Report;
use crate::config::file::File;

/// Warns of stages and ports that lead nowhere.
pub(super) fn warn(file: &File, graph: &Graph, stages: &Stages<'_>, report: &mut Report) {
    let mut reached: BTreeSet<usize> = BTreeSet::new();
    let mut ports: BTreeSet<(usize, Arc<str>)> = BTreeSet::new();
    let mut follow = |links: &[Link], reached: &mut BTreeSet<usize>| {
        for link in links {
            if let Target::Stage { stage, port } = &link.target {
                reached.insert(*stage);
                ports.insert((*stage, port.as_deref().unwrap_or("").into()));
            }
        }
    };
    for links in &graph.sinks {
        follow(links, &mut reached);
    }
    // Readers come after what they read, so going back once is enough.
    for stage in graph.order.iter().rev() {
        if reached.contains(stage) {
            follow(&graph.stages[*stage], &mut reached);
        }
    }
    for (index, section) in file.stages.values().enumerate() {
        if graph.cyclic.contains(&index) {
            continue;
        }
        if !reached.contains(&index) {
            report.add(
                Code::Unreachable,
                &section.at,
                "no sink is reached from this stage",
            );
            continue;
        }
        for (port, _) in &stages.checked[index].ports {
            if !ports.contains(&(index, port.clone())) {
                let output = match &**port {
                    "" => "the main output".to_owned(),
                    port => format!("the port `{port}`"),
                };
                let message = format!("nothing reads {output} of this stage");
                report.add(Code::UnreadPort, &section.at, message);
            }
        }
    }
}
