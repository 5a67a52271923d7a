//! The daemon's own HTTP server: health, metrics, the live page, and the RRD files.
//!
//! It has a thread and a runtime of its own, takes [`CONNECTIONS_MAX`] connections, and gives each
//! of them [`HEAD_TIMEOUT`] for the head of a request and [`CONNECTION_TIMEOUT`] in all. It reads
//! no bodies. Nothing of it is on the path of a sample: what it shows it takes from the [`State`].
//!
//! | address | what |
//! |---|---|
//! | `/` | the live page |
//! | `/healthz` | 200 while all threads of the path move, else 503 |
//! | `/readyz` | 200 once sockets are bound and there is a MAC table, else 503 |
//! | `/status.json` | the [`Status`](crate::state::status::Status) |
//! | `/metrics` | the same for Prometheus ([`metrics`]) |
//! | `/live.json` | the last seconds of a VLAN: matrix, members, pairs ([`matrix`]) |
//! | `/graph.png` | a file of the tree as a picture ([`graph`]) |
//! | `/grapher-sflow/...` | the RRD tree, fresh ([`files`]) |

pub mod files;
pub mod graph;
pub mod matrix;
pub mod metrics;

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, Request, State as Shared};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use foldhash::fast::FixedState;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Semaphore, oneshot};

use self::files::Files;
use self::graph::{DrawError, Drawer};
use self::matrix::Orders;
use super::config::HttpToken;
use super::service::Watch;
use crate::clock::Clock;
use crate::flush::live::{Live, TICK};
use crate::sink::Share;
use crate::sink::rrdcached::Address;
use crate::state::State;
use crate::worker::Epoch;

/// Connections at a time; further ones wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 64;

/// How long the head of a request may take, and a connection may be idle.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may last; a request that is being answered then has
/// ten seconds more.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the last answer of a connection may take.
const LAST_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A thread that is at work and has not moved for so long is stalled.
const STALLED: Duration = Duration::from_secs(10);

/// Bytes of the head of a request at the most.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Threads for what waits for disks and rrdcached.
const BLOCKING_THREADS_MAX: usize = 4;

/// Pause after an error of accept(2), as when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Where the RRD tree is.
const FILES_PREFIX: &str = "/grapher-sflow/";

/// The page, one file with its style and its script in it.
const PAGE: &str = include_str!("web/page.html");
const STYLE: &str = include_str!("web/page.css");
const SCRIPT: &str = include_str!("web/page.js");

/// Answers of `/live.json` that are kept until the next snapshot.
const VIEWS_MAX: usize = 32;

/// What the server needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What a request must carry.
    pub token: Option<HttpToken>,
    /// How many pairs the metrics have.
    pub metrics_pairs: usize,
    /// The root of the RRD files.
    pub rrd_dir: PathBuf,
    /// The rrdcacheds that write them, if any do, with the share of each.
    pub rrdcached: Vec<(Address, Share)>,
}

/// What the server shows.
#[derive(Clone)]
pub struct Sources {
    /// The daemon's state.
    pub state: Arc<State>,
    /// The epoch, which is advanced while somebody looks at the live view.
    pub epoch: Arc<Epoch>,
    /// The live view.
    pub live: Arc<Live>,
    /// The daemon's clock.
    pub clock: Clock,
}

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on TCP {address}: {error}: sflow_http_listen names another address, or is off"
)]
pub struct WebError {
    /// The address.
    pub address: SocketAddr,
    /// What the system says.
    pub error: io::Error,
}

/// Bound sockets, before anything is answered.
#[derive(Debug)]
pub struct Listeners(Vec<TcpListener>);

impl Listeners {
    /// Binds all addresses.
    ///
    /// # Errors
    ///
    /// The first that cannot be bound.
    pub fn bind(addresses: &[SocketAddr]) -> Result<Listeners, WebError> {
        let bind = |&address: &SocketAddr| {
            let listener = TcpListener::bind(address).and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok(listener)
            });
            listener.map_err(|error| WebError { address, error })
        };
        Ok(Listeners(addresses.iter().map(bind).collect::<Result<_, _>>()?))
    }

    /// The addresses, with the ports that the system chose.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }
}

/// A running server; it stops when it is dropped.
#[derive(Debug)]
pub struct Web {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the answers are made of.
struct Site {
    settings: Settings,
    sources: Sources,
    watch: Mutex<Watch>,
    page: (Bytes, HeaderValue),
    views: Mutex<Views>,
    files: Arc<Files>,
    drawer: Drawer,
}

/// Answers of `/live.json`.
#[derive(Default)]
struct Views {
    /// End of the snapshot that they are of.
    to_millis: u64,
    answers: HashMap<matrix::Query, Bytes, FixedState>,
    orders: Orders,
}

impl Site {
    /// Threads of the path that do not move.
    fn stuck(&self) -> Vec<String> {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.stuck(Instant::now())
    }
}

impl Web {
    /// Answers on `listeners`, on a thread and a runtime of its own.
    ///
    /// # Errors
    ///
    /// No thread, or no runtime.
    pub fn start(listeners: Listeners, settings: Settings, sources: Sources) -> io::Result<Web> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .enable_io()
            .enable_time()
            .build()?;
        let listeners = {
            let _in_runtime = runtime.enter();
            let listeners = listeners.0.into_iter().map(tokio::net::TcpListener::from_std);
            listeners.collect::<io::Result<Vec<_>>>()?
        };
        let files = Files::new(&settings.rrd_dir, settings.rrdcached.clone());
        let site = Arc::new(Site {
            watch: Mutex::new(Watch::new(sources.state.clone(), STALLED, Instant::now())),
            page: page(),
            views: Mutex::default(),
            drawer: Drawer::start(files.root().to_owned())?,
            files: Arc::new(files),
            settings,
            sources,
        });
        let router = router(site.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("web".into()).spawn(move || {
            runtime.block_on(async {
                let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
                for listener in listeners {
                    tokio::spawn(accept(listener, router.clone(), permits.clone()));
                }
                tokio::spawn(async move {
                    let mut tick = tokio::time::interval(TICK);
                    loop {
                        tick.tick().await;
                        if site.settings.metrics_pairs > 0 {
                            site.sources.live.look();
                        }
                        if site.sources.live.is_due() {
                            site.sources.epoch.advance();
                        }
                    }
                });
                // An error is the end of the one who could say stop.
                let _ = stopped.await;
            });
            // What still waits for a disk or rrdcached must not hold the end up.
            runtime.shutdown_background();
        })?;
        Ok(Web { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the server has been printed, and there is nothing left to stop.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: tokio::net::TcpListener, router: Router, permits: Arc<Semaphore>) {
    loop {
        // Never closed.
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!("HTTP: cannot accept: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are written whole.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            // Errors are those of the client.
            if tokio::time::timeout(CONNECTION_TIMEOUT, connection.as_mut()).await.is_err() {
                connection.as_mut().graceful_shutdown();
                let _ = tokio::time::timeout(LAST_ANSWER_TIMEOUT, connection).await;
            }
        });
    }
}

fn router(site: Arc<Site>) -> Router {
    let guarded = Router::new()
        .route("/status.json", get(status))
        .route("/metrics", get(render_metrics))
        .route("/live.json", get(live))
        .route("/graph.png", get(draw))
        .route("/grapher-sflow/{*path}", get(file))
        .fallback(async || StatusCode::NOT_FOUND)
        .layer(middleware::from_fn_with_state(site.clone(), authorize));
    Router::new()
        .route("/", get(show_page))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .merge(guarded)
        .layer(middleware::from_fn(harden))
        .with_state(site)
}

/// Lets a request pass that carries the token.
async fn authorize(Shared(site): Shared<Arc<Site>>, request: Request, next: Next) -> Response {
    let Some(token) = &site.settings.token else { return next.run(request).await };
    let given = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let given = given.and_then(|value| {
        let (scheme, token) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
    });
    if given.is_some_and(|given| token.accepts(given)) {
        return next.run(request).await;
    }
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer realm=\"ixflow\"")];
    (StatusCode::UNAUTHORIZED, challenge, "expected Authorization: Bearer and the token\n")
        .into_response()
}

/// What every answer says to browsers.
async fn harden(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn healthz(Shared(site): Shared<Arc<Site>>) -> Response {
    let stuck = site.stuck();
    if stuck.is_empty() {
        return "ok\n".into_response();
    }
    let text = format!("{} without progress\n", stuck.join(", "));
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn readyz(Shared(site): Shared<Arc<Site>>) -> Response {
    if site.sources.state.is_ready() {
        "ok\n".into_response()
    } else {
        let text = "the sockets are not bound yet, or there is no MAC table yet\n";
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

async fn status(Shared(site): Shared<Arc<Site>>) -> Response {
    json(&*site.sources.state.status(site.sources.clock.now_millis()))
}

/// An answer in JSON.
fn json(value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => json_bytes(body.into()),
        // Nothing that is shown has keys that are no strings.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn json_bytes(body: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn render_metrics(Shared(site): Shared<Arc<Site>>) -> Response {
    let status = site.sources.state.status(site.sources.clock.now_millis());
    let mut pairs = Vec::new();
    let mut secs = 0.0;
    if site.settings.metrics_pairs > 0
        && let Some(snapshot) = site.sources.live.look()
    {
        pairs = matrix::busiest(&snapshot, site.settings.metrics_pairs);
        secs = snapshot.to_millis.saturating_sub(snapshot.from_millis) as f64 / 1_000.0;
    }
    let stalled = site.stuck().len();
    let text = metrics::render(&metrics::View { status: &status, pairs: (&pairs, secs), stalled });
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn live(Shared(site): Shared<Arc<Site>>, Query(query): Query<matrix::Query>) -> Response {
    let snapshot = site.sources.live.look();
    // A million pairs take a while: others are answered meanwhile.
    let made = tokio::task::spawn_blocking(move || {
        let to_millis = snapshot.as_ref().map_or(0, |snapshot| snapshot.to_millis);
        let mut views = site.views.lock().unwrap_or_else(PoisonError::into_inner);
        if views.to_millis != to_millis || views.answers.len() >= VIEWS_MAX {
            views.to_millis = to_millis;
            views.answers.clear();
        }
        if let Some(answer) = views.answers.get(&query) {
            return answer.clone();
        }
        let plan = site.sources.epoch.plan();
        let lans = plan.table.lans();
        let view = matrix::view(&query, snapshot.as_deref(), lans, &mut views.orders);
        let answer = Bytes::from(serde_json::to_vec(&view).unwrap_or_default());
        if snapshot.is_some() {
            views.answers.insert(query, answer.clone());
        }
        answer
    });
    match made.await {
        Ok(body) => json_bytes(body),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn draw(Shared(site): Shared<Arc<Site>>, Query(query): Query<graph::Query>) -> Response {
    let Some((file, title)) = query.file() else {
        let expected = "expected source, source and destination, or vlan; protocol = ipv4 or \
                        ipv6; unit = bytes or pkts; period = day, week, month or year\n";
        return (StatusCode::BAD_REQUEST, expected).into_response();
    };
    let files = site.files.clone();
    // Its end is all that is waited for: a file that is not fresh is drawn all the same.
    let _ = tokio::task::spawn_blocking(move || files.freshen(file)).await;
    let now_secs = site.sources.clock.now_millis() / 1_000;
    match site.drawer.draw(&query, file, title, now_secs).await {
        Ok(png) => ([(header::CONTENT_TYPE, "image/png")], png).into_response(),
        Err(DrawError::Busy) => {
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "2")]).into_response()
        }
        Err(error @ DrawError::Failed(_)) => {
            (StatusCode::NOT_FOUND, format!("{file}: {error}\n")).into_response()
        }
    }
}

async fn file(Shared(site): Shared<Arc<Site>>, uri: Uri, headers: HeaderMap) -> Response {
    // As it was sent: what would have to be decoded is no name of the tree.
    let path = uri.path().strip_prefix(FILES_PREFIX).unwrap_or_default().to_owned();
    let files = site.files.clone();
    match tokio::task::spawn_blocking(move || files.answer(&path, &headers)).await {
        Ok(response) => response,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn show_page(Shared(site): Shared<Arc<Site>>) -> Response {
    let (body, policy) = site.page.clone();
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, policy),
    ];
    (headers, body).into_response()
}

/// The page, and the policy by which a browser runs its one script and style, and nothing else.
fn page() -> (Bytes, HeaderValue) {
    let page = PAGE.replace("/*STYLE*/", STYLE).replace("/*SCRIPT*/", SCRIPT);
    let hash = |text: &str| {
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        base64::engine::general_purpose::STANDARD.encode(digest)
    };
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
         img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    let policy = HeaderValue::from_str(&policy);
    // Base64 and the words around it are visible ASCII.
    (page.into(), policy.unwrap_or(HeaderValue::from_static("default-src 'none'")))
}
