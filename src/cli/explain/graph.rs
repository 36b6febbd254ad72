//! A pipeline as a picture: each source as a tree of what becomes of its records.

use crate::config::Plan;
use crate::config::plan::Input;
use crate::config::words::op_name;

/// The lines of the picture. What reads several things hangs below each; what becomes of it is drawn
/// once.
pub(super) fn picture(plan: &Plan) -> Vec<String> {
    let mut picture = Picture {
        plan,
        drawn: vec![false; plan.stages.len()],
        lines: Vec::new(),
    };
    for (index, source) in plan.sources.iter().enumerate() {
        picture.lines.push(format!("  {}", source.name));
        picture.below(
            "  ",
            &|input| matches!(input, Input::Source(of) if *of == index),
        );
    }
    picture.lines
}

struct Picture<'p> {
    plan: &'p Plan,
    /// The stages whose outputs are in the picture.
    drawn: Vec<bool>,
    lines: Vec<String>,
}

impl Picture<'_> {
    /// Draws what reads an input.
    fn below(&mut self, indent: &str, is_read: &dyn Fn(&Input) -> bool) {
        let plan = self.plan;
        let port = |inputs: &[Input]| {
            let input = inputs.iter().find(|input| is_read(input))?;
            Some(match input {
                Input::Source(_) => String::new(),
                Input::Stage { stage, port } => match &*plan.stages[*stage].ports[*port].0 {
                    "" => String::new(),
                    port => format!("{port}: "),
                },
            })
        };
        let stages = plan.stages.iter().enumerate();
        let mut branches: Vec<(String, Option<usize>)> = stages
            .filter_map(|(index, stage)| Some((port(&stage.inputs)?, Some(index))))
            .collect();
        branches.extend(plan.sinks.iter().filter_map(|sink| {
            let port = port(&sink.inputs)?;
            let sink = format!("{port}=> {}, topic {}", sink.name, sink.topic.topic);
            Some((sink, None))
        }));
        let last = branches.len().saturating_sub(1);
        for (number, (text, stage)) in branches.into_iter().enumerate() {
            let (branch, beneath) = match number == last {
                true => ("└─ ", "   "),
                false => ("├─ ", "│  "),
            };
            let Some(index) = stage else {
                self.lines.push(format!("{indent}{branch}{text}"));
                continue;
            };
            let stage = &plan.stages[index];
            let again = std::mem::replace(&mut self.drawn[index], true);
            let seen = if again { ", as above" } else { "" };
            let op = op_name(&stage.op);
            self.lines
                .push(format!("{indent}{branch}{text}{} ({op}){seen}", stage.name));
            if !again {
                let indent = format!("{indent}{beneath}");
                self.below(
                    &indent,
                    &|input| matches!(input, Input::Stage { stage, .. } if *stage == index),
                );
            }
        }
    }
}
