//! `ixflow top`: the live view in a terminal, over the state that the daemon serves over HTTP.
//!
//! It reads `/status.json` and `/live.json` as the page does, and adds nothing. Where standard
//! output is no terminal, it prints one table.

mod client;
mod screen;

use std::io::{self, IsTerminal, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use self::client::{Client, FetchError, Look, Protocol, Query, Sort, View};
use self::screen::{Action, App};
use crate::control::config::{BaseUrl, Config, ConfigError, DEFAULT_HTTP_LISTEN, HttpToken};
use crate::control::web::matrix::TOP_MAX;

/// How long `--once` waits for the first counts of the live view, which begins to be kept when
/// somebody looks.
const FIRST_COUNTS_MAX: Duration = Duration::from_secs(15);

/// Pause between two looks while waiting for the first counts or rates; a status is made at most
/// once a second.
const FIRST_COUNTS_PAUSE: Duration = Duration::from_millis(1_100);

/// How often keys and signals are looked for.
const KEYS_EVERY: Duration = Duration::from_millis(200);

/// Bytes of a token's file at the most.
const TOKEN_BYTES_MAX: u64 = 4 << 10;

/// Arguments of `ixflow top`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Where ixflow answers; without it, the first address of sflow_http_listen, or
    /// http://127.0.0.1:6343 where there is no configuration
    #[arg(long, value_name = "URL")]
    url: Option<BaseUrl>,
    /// Settings, as for `ixflow run`: sflow_http_listen and sflow_http_token are used
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// File with the token of sflow_http_token alone, where the configuration cannot be read
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// What is shown first
    #[arg(long, value_enum, default_value_t)]
    view: View,
    /// The order of pairs and members; error: most samples first
    #[arg(long, value_enum, default_value_t)]
    sort: Sort,
    /// IPv4, IPv6 or the sum of both
    #[arg(long, value_enum, default_value_t)]
    protocol: Protocol,
    /// Pairs and members of this VLAN; 0 is the untagged one; without it, the one with most VLIs
    #[arg(long, value_name = "TAG", value_parser = clap::value_parser!(u16).range(0..=4094))]
    vlan: Option<u16>,
    /// The infrastructure of the VLAN, where several use its tag
    #[arg(long, value_name = "ID")]
    infrastructure: Option<u32>,
    /// Pairs of this VLI, and its peers as members
    #[arg(long, value_name = "ID")]
    vli: Option<u32>,
    /// Pairs and members at the most
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = rows)]
    rows: usize,
    /// Seconds between two looks; rates are those of the last ten seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2,
        value_parser = clap::value_parser!(u64).range(1..=60))]
    interval: u64,
    /// Prints one table and ends, as it does where standard output is no terminal
    #[arg(long)]
    once: bool,
}

fn rows(text: &str) -> Result<usize, String> {
    let rows = text.parse().ok().filter(|rows| (1..=TOP_MAX).contains(rows));
    rows.ok_or_else(|| format!("expected a number from 1 to {TOP_MAX}"))
}

/// Why `ixflow top` ended.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// The settings cannot be used.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The daemon answers nobody.
    #[error(
        "{0}: sflow_http_listen is off: expected an address there, or --url for another ixflow"
    )]
    Off(String),
    /// The token's file cannot be used.
    #[error("--token-file {}: {fault}", .path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// No answer, or none that is ixflow's.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The live view has no counts.
    #[error("{url}: expected counts of the live view within {FIRST_COUNTS_MAX:?}: {reason}")]
    NoCounts {
        /// The daemon's address.
        url: String,
        /// What is known of why.
        reason: &'static str,
    },
    /// A filter that nothing fits.
    #[error("{0}")]
    NothingFits(String),
    /// Standard output, or the terminal.
    #[error("the terminal: {0}")]
    Terminal(#[from] io::Error),
}

/// Shows the live view until it is told to quit, or prints one table.
///
/// # Errors
///
/// The settings, the first look at the daemon, or the terminal.
pub fn run(arguments: &Arguments) -> Result<(), TopError> {
    let (url, token) = daemon(arguments)?;
    let client = Client::new(&url, token)?;
    let query = Query {
        view: arguments.view,
        sort: arguments.sort,
        protocol: arguments.protocol,
        infrastructure: arguments.infrastructure,
        vlan: arguments.vlan,
        vli: arguments.vli,
        rows: arguments.rows,
    };
    let mut app = App::new(client.url().to_owned(), query);
    if arguments.once || !io::stdout().is_terminal() {
        return once(&client, &mut app);
    }
    // Before the screen is taken, so that the error of an address where nobody answers stays.
    let look = client.look(&app.query)?;
    app.take(Ok(look));
    show(client, app, Duration::from_secs(arguments.interval))
}

/// The address of the daemon, and the token that it wants.
fn daemon(arguments: &Arguments) -> Result<(BaseUrl, Option<HttpToken>), TopError> {
    // The token of a configuration that was not named does not go to an address that was.
    let config = match (&arguments.config, &arguments.url) {
        (Some(path), _) => Some(Config::load(Some(path), &[])?),
        (None, Some(_)) => None,
        (None, None) => match Config::load(None, &[]) {
            Ok(config) => Some(config),
            Err(ConfigError::NotFound { .. }) => None,
            Err(ConfigError::Read { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                None
            }
            Err(error) => return Err(error.into()),
        },
    };
    let url = match (&arguments.url, &config) {
        (Some(url), _) => url.clone(),
        (None, None) => url_of(DEFAULT_HTTP_LISTEN)?,
        (None, Some(config)) => match config.http_listen.first() {
            Some(&address) => url_of(address)?,
            None => {
                let file = config.file.as_ref().map(|file| file.display().to_string());
                return Err(TopError::Off(file.unwrap_or_default()));
            }
        },
    };
    let token = match &arguments.token_file {
        Some(path) => Some(read_token(path)?),
        None => config.and_then(|config| config.http_token),
    };
    Ok((url, token))
}

/// Where a listening address is reached from this machine.
fn url_of(listening: SocketAddr) -> Result<BaseUrl, FetchError> {
    let host = match listening.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    let text = format!("http://{}", SocketAddr::new(host, listening.port()));
    text.parse().map_err(|_| FetchError::new(&text, "expected an http or https address"))
}

fn read_token(path: &Path) -> Result<HttpToken, TopError> {
    let fault = |fault: String| TopError::Token { path: path.to_owned(), fault };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| fault(error.to_string()))?;
    io::Read::read_to_end(&mut io::Read::take(file, TOKEN_BYTES_MAX), &mut bytes)
        .map_err(|error| fault(error.to_string()))?;
    let text = String::from_utf8_lossy(&bytes);
    let expected = "expected the token alone, at least 8 characters of visible ASCII";
    HttpToken::new(text.trim()).ok_or_else(|| fault(expected.to_owned()))
}

/// Prints one table, when there are counts and rates to be shown.
fn once(client: &Client, app: &mut App) -> Result<(), TopError> {
    let started = Instant::now();
    // Rates of agents and losses are those between two looks.
    let mut looks_left: u32 = if app.query.view.is_live() { 1 } else { 2 };
    loop {
        let look = client.look(&app.query)?;
        let reason = if look.status.ready {
            "it is just starting, or its workers stand still (/healthz tells)"
        } else {
            "it has no MAC table yet, or listens on no socket (/readyz tells)"
        };
        let is_ready = look.live.as_ref().is_none_or(|live| live.ready);
        app.take(Ok(look));
        looks_left = looks_left.saturating_sub(1);
        if is_ready && looks_left == 0 {
            break;
        }
        if started.elapsed() > FIRST_COUNTS_MAX {
            return Err(TopError::NoCounts { url: client.url().to_owned(), reason });
        }
        std::thread::sleep(FIRST_COUNTS_PAUSE);
    }
    if let Some(reason) = app.nothing_fits() {
        return Err(TopError::NothingFits(reason));
    }
    match io::stdout().lock().write_all(app.text().as_bytes()) {
        // Whoever reads has seen enough, as head(1).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed?),
    }
}

/// Shows the view until a key or a signal ends it.
fn show(client: Client, mut app: App, interval: Duration) -> Result<(), TopError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let (ask, asked) = crossbeam_channel::unbounded();
    let (tell, told) = crossbeam_channel::bounded(1);
    let query = app.query.clone();
    // It ends with this process: a look that is under way need not be waited for.
    std::thread::Builder::new()
        .name("top-fetch".into())
        .spawn(move || keep_looking(&client, query, interval, &asked, &tell))?;
    // Its panic hook restores the terminal too.
    let mut terminal = ratatui::try_init()?;
    let shown = turn(&mut terminal, &mut app, &stop, &ask, &told);
    let restored = ratatui::try_restore();
    shown?;
    Ok(restored?)
}

type Answer = (Query, Result<Look, FetchError>);

/// Looks again at every interval, and at once when something else is asked for.
fn keep_looking(
    client: &Client,
    mut query: Query,
    interval: Duration,
    asked: &Receiver<Query>,
    tell: &Sender<Answer>,
) {
    loop {
        match asked.recv_timeout(interval) {
            Ok(news) => query = asked.try_iter().last().unwrap_or(news),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let look = client.look(&query);
        if tell.send((query.clone(), look)).is_err() {
            return;
        }
    }
}

/// Draws what is new, and does what the keys say.
fn turn(
    terminal: &mut DefaultTerminal,
    app: &mut App,
    stop: &AtomicBool,
    ask: &Sender<Query>,
    told: &Receiver<Answer>,
) -> io::Result<()> {
    let mut is_new = true;
    while !stop.load(Ordering::Relaxed) {
        for (query, look) in told.try_iter() {
            // The answer to another question is on its way.
            if query == app.query {
                app.take(look);
                is_new = true;
            }
        }
        if is_new {
            terminal.draw(|frame| app.draw(frame))?;
        }
        is_new = event::poll(KEYS_EVERY)?;
        if !is_new {
            continue;
        }
        // Anything else, as another size of the terminal, is a reason to draw.
        if let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
        {
            match app.key(key) {
                Action::Quit => break,
                // The other side ends with this one only.
                Action::Ask => drop(ask.send(app.query.clone())),
                Action::None => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_address_is_reached_over_the_loopback() {
        for (listening, url) in [
            ("127.0.0.1:6343", "http://127.0.0.1:6343/"),
            ("0.0.0.0:80", "http://127.0.0.1/"),
            ("[::]:8080", "http://[::1]:8080/"),
            ("192.0.2.7:1", "http://192.0.2.7:1/"),
        ] {
            let made = url_of(listening.parse().unwrap()).unwrap();
            assert_eq!(made.expose().as_str(), url);
        }
    }

    #[test]
    fn a_token_file_has_the_token_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "not-to-be-told\n").unwrap();
        assert_eq!(read_token(&path).unwrap().expose(), "not-to-be-told");
        std::fs::write(&path, "two words of it\n").unwrap();
        assert!(read_token(&path).unwrap_err().to_string().contains("the token alone"));
        assert!(read_token(&directory.path().join("none")).is_err());
    }
}
