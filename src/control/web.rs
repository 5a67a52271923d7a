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

pub mod metrics;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Semaphore, oneshot};

use super::config::HttpToken;
use super::service::Watch;
use crate::clock::Clock;
use crate::state::State;

/// Connections at a time; further ones wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 64;

/// How long the head of a request may take, and a connection may be idle.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may last; a request that is being answered then has
/// [`LAST_ANSWER_TIMEOUT`] more.
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

/// What the server needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What a request must carry.
    pub token: Option<HttpToken>,
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
    state: Arc<State>,
    clock: Clock,
    watch: Mutex<Watch>,
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
    pub fn start(
        listeners: Listeners,
        settings: Settings,
        state: Arc<State>,
        clock: Clock,
    ) -> io::Result<Web> {
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
        let watch = Mutex::new(Watch::new(state.clone(), STALLED, Instant::now()));
        let router = router(Arc::new(Site { settings, state, clock, watch }));
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("web".into()).spawn(move || {
            runtime.block_on(async {
                let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
                for listener in listeners {
                    tokio::spawn(accept(listener, router.clone(), permits.clone()));
                }
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
        .fallback(async || StatusCode::NOT_FOUND)
        .layer(middleware::from_fn_with_state(site.clone(), authorize));
    Router::new()
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
    if site.state.is_ready() {
        "ok\n".into_response()
    } else {
        let text = "the sockets are not bound yet, or there is no MAC table yet\n";
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

async fn status(Shared(site): Shared<Arc<Site>>) -> Response {
    json(&*site.state.status(site.clock.now_millis()))
}

/// An answer in JSON.
fn json(value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        // Nothing that is shown has keys that are no strings.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn render_metrics(Shared(site): Shared<Arc<Site>>) -> Response {
    let status = site.state.status(site.clock.now_millis());
    let view = metrics::View { status: &status, pairs: (&[], 0.0), stalled: site.stuck().len() };
    let text = metrics::render(&view);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
