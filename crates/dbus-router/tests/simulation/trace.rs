//! What happened last, for the person who reads a failure.

use std::collections::VecDeque;

/// Off at first: a run that fails is run again with the trace on.
#[derive(Debug, Default)]
pub struct Trace {
    lines: Option<VecDeque<String>>,
    most: usize,
    count: u64,
}

impl Trace {
    pub fn on(most: usize) -> Trace {
        Trace {
            lines: Some(VecDeque::new()),
            most,
            count: 0,
        }
    }

    pub fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    pub fn say(&mut self, line: impl FnOnce() -> String) {
        self.count += 1;
        let count = self.count;
        if let Some(lines) = &mut self.lines {
            if lines.len() >= self.most {
                lines.pop_front();
            }
            lines.push_back(format!("{count:>6} {}", line()));
        }
    }

    pub fn lines(&self) -> impl Iterator<Item = &String> {
        self.lines.iter().flatten()
    }
}
