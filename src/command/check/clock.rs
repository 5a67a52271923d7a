//! Whether this machine's clock is kept right. The kernel knows (`STA_UNSYNC` of adjtimex(2) and
//! ntp_adjtime(2)); tools that every user may run say what it knows.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use super::Report;
use crate::finding::Level;

const NAME: &str = "clock";

/// There where systemd is the service manager: elsewhere timedatectl waits in vain.
const SYSTEMD: &str = "/run/systemd/system";

pub(super) fn check(report: &mut Report) {
    tell(is_synchronised(), report);
}

fn tell(synchronised: Option<(bool, &str)>, report: &mut Report) {
    match synchronised {
        Some((true, by)) => report.ok(NAME, "", format!("kept by NTP, says {by}")),
        Some((false, by)) => {
            let what = format!("not kept by NTP, says {by}");
            let why = "graphs are shifted by what it is wrong, and where it is set back what comes \
                       is lost (clock_set_back)";
            let remedy = "run an NTP daemon (chrony, ntpd, systemd-timesyncd) that reaches its \
                          servers";
            report.bad(Level::Warn, NAME, "", [&what, why, remedy]);
        }
        None => {
            let what = "whether NTP keeps it cannot be told: neither timedatectl nor ntptime \
                        answers here";
            report.ok(NAME, "", what);
        }
    }
}

/// Whether the kernel holds its clock for synchronised, and who says so.
fn is_synchronised() -> Option<(bool, &'static str)> {
    const TIMEDATECTL: &str = "timedatectl";
    const NTPTIME: &str = "ntptime";
    if Path::new(SYSTEMD).exists()
        && let Ok(answer) = ask(TIMEDATECTL, &["show", "--property=NTPSynchronized", "--value"])
        && let Some(synchronised) = of_timedatectl(&answer)
    {
        return Some((synchronised, TIMEDATECTL));
    }
    let answer = ask(NTPTIME, &[]).ok()?;
    Some((of_ntptime(&answer)?, NTPTIME))
}

fn ask(program: &str, arguments: &[&str]) -> io::Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn of_timedatectl(answer: &str) -> Option<bool> {
    match answer.trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// "ntp_gettime() returns code 0 (OK)"; 5 is TIME_ERROR, a clock that is not synchronised
/// (sys/timex.h).
fn of_ntptime(answer: &str) -> Option<bool> {
    let (_, behind) = answer.split_once("ntp_gettime() returns code ")?;
    let code: u32 = behind.split_whitespace().next()?.parse().ok()?;
    Some(code != 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tools_are_understood() {
        assert_eq!(of_timedatectl("yes\n"), Some(true));
        assert_eq!(of_timedatectl("no\n"), Some(false));
        assert_eq!(of_timedatectl("Failed to query server: Connection timed out\n"), None);
        let ntptime = "ntp_gettime() returns code 5 (ERROR)\n  time ea9f3c8e.6d3ad000 Mon\n";
        assert_eq!(of_ntptime(ntptime), Some(false));
        assert_eq!(of_ntptime(&ntptime.replace("5 (ERROR)", "0 (OK)")), Some(true));
        assert_eq!(of_ntptime("Must be root to set kernel values"), None);
    }

    #[test]
    fn a_clock_that_nobody_keeps_is_a_warning() {
        for (said, level) in [
            (Some((true, "ntptime")), Level::Ok),
            (None, Level::Ok),
            (Some((false, "ntptime")), Level::Warn),
        ] {
            let mut report = Report { json: false, worst: Level::Ok, printed: Ok(()) };
            tell(said, &mut report);
            assert_eq!(report.worst, level, "{said:?}");
        }
    }
}
