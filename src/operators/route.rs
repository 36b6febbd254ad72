//! `route`: sends each event to one of several ports by the value of a field.

use std::sync::Arc;

use super::{Context, Operator};
use crate::config::plan::{RouteValue, Unplaced};
use crate::events::Rows;

/// Sends each row to the port of the first case that equals a field of it, or where the file says
/// the rest goes. Keeps order within a port, holds nothing.
#[derive(Debug)]
pub struct Route {
    field: usize,
    cases: Vec<(RouteValue, usize)>,
    otherwise: Unplaced,
    // Port of each row of the batch at hand; kept for its allocation.
    ports: Vec<Option<usize>>,
}

impl Route {
    /// Routes by `field`.
    pub fn new(field: usize, cases: Vec<(RouteValue, usize)>, otherwise: Unplaced) -> Self {
        Self {
            field,
            cases,
            otherwise,
            ports: Vec::new(),
        }
    }

    fn port(&self, rows: &Rows, row: usize) -> Option<usize> {
        let found = self.cases.iter().find(|(value, _)| match value {
            RouteValue::Text(text) => rows.text(row, self.field) == Some(text.as_bytes()),
            RouteValue::Number(number) => rows.number(row, self.field) == Some(*number),
        });
        match (found, &self.otherwise) {
            (Some((_, port)), _) | (None, Unplaced::Port(port)) => Some(*port),
            (None, Unplaced::DeadLetter | Unplaced::Drop { .. }) => None,
        }
    }
}

impl Operator for Route {
    fn process(&mut self, _input: usize, rows: Arc<Rows>, cx: &mut Context) {
        self.ports.clear();
        for row in 0..rows.len() {
            let port = self.port(&rows, row);
            self.ports.push(port);
            if port.is_none() {
                if self.otherwise == Unplaced::DeadLetter {
                    let name = &rows.schema().fields[self.field].name;
                    cx.set_aside(&rows, row, "route.none", format!("no case equals `{name}`"));
                } else {
                    cx.count_dropped();
                }
            }
        }
        let Some(&first) = self.ports.first() else {
            return;
        };
        if let (Some(port), true) = (first, self.ports.iter().all(|port| *port == first)) {
            // The common batch goes one way: pass it on whole.
            cx.emit(port, rows);
            return;
        }
        let mut distinct: Vec<usize> = self.ports.iter().copied().flatten().collect();
        distinct.sort_unstable();
        distinct.dedup();
        for port in distinct {
            cx.emit(port, rows.select(|row| self.ports[row] == Some(port)));
        }
    }
}
