//! A finding: what looks right or wrong, why it matters, and what mends it.
//!
//! `ixflow check` prints findings one a line; the daemon keeps those of the running stream in its
//! [`State`](crate::state::State), where every view shows them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Numbers may be wrong, or will be when things grow.
    Warn,
    /// Numbers are wrong, or nothing works.
    Fail,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at, as a stable name: `egress_samples`, `socket_buffer`.
    pub name: &'static str,
    /// Whom it concerns: an agent, a port, a file, a setting; empty where the name says it all.
    pub subject: String,
    /// What was seen, with its figures.
    pub what: String,
    /// Why it matters; empty where all is well.
    pub why: String,
    /// What to do, with the setting or command; empty where nothing is to be done.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<4}  {}", self.level, self.name)?;
        if !self.subject.is_empty() {
            write!(f, " ({})", self.subject)?;
        }
        write!(f, ": {}", self.what)?;
        for sentence in [&self.why, &self.remedy] {
            if !sentence.is_empty() {
                write!(f, "; {sentence}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line() {
        let finding = Finding {
            level: Level::Warn,
            name: "egress_samples",
            subject: "192.0.2.1".into(),
            what: "all 512 samples were taken at egress".into(),
            why: "they are not counted".into(),
            remedy: "set direction = egress in <sflow_agent 192.0.2.1>".into(),
        };
        assert_eq!(
            finding.to_string(),
            "warn  egress_samples (192.0.2.1): all 512 samples were taken at egress; they are not \
             counted; set direction = egress in <sflow_agent 192.0.2.1>"
        );
        let fine = Finding {
            level: Level::Ok,
            name: "api",
            subject: String::new(),
            what: "answers".into(),
            why: String::new(),
            remedy: String::new(),
        };
        assert_eq!(fine.to_string(), "ok    api: answers");
    }
}
