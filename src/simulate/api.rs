//! The MAC table, served as IXP Manager's API does.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::oneshot;

/// The header that carries the key.
pub const API_KEY_HEADER: &str = "X-IXP-Manager-API-Key";

/// A running server; it stops when it is dropped.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    answers: Arc<Answers>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Answers {
    key: String,
    table: RwLock<Table>,
}

#[derive(Debug)]
struct Table {
    json: String,
    etag: String,
}

impl Table {
    fn new(json: String) -> Table {
        // FNV-1a: the tag changes with the table, and is the same in every run.
        let hash = json.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Table { json, etag: format!("\"{hash:016x}\"") }
    }
}

impl ApiServer {
    /// Serves `table_json` ([`super::Fabric::mac_table_json`]) on `listener` to whoever has `key`,
    /// under `/api/v4/sflow-db-mapper/learned-macs` and `.../configured-macs`, on a thread and a
    /// runtime of its own.
    pub fn start(listener: TcpListener, table_json: String, key: &str) -> io::Result<ApiServer> {
        let answers =
            Arc::new(Answers { key: key.to_owned(), table: RwLock::new(Table::new(table_json)) });
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let listener = {
            let _in_runtime = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let router = Router::new()
            .route("/api/v4/sflow-db-mapper/learned-macs", get(macs))
            .route("/api/v4/sflow-db-mapper/configured-macs", get(macs))
            .with_state(Arc::clone(&answers));
        let (stop, stopped) = oneshot::channel();
        let thread =
            std::thread::Builder::new().name("simulated-api".to_owned()).spawn(move || {
                runtime.block_on(async {
                    // Connections that are kept alive end with the runtime: a graceful shutdown
                    // would wait for them.
                    tokio::select! {
                        _ = axum::serve(listener, router) => {}
                        _ = stopped => {}
                    }
                });
            })?;
        Ok(ApiServer { address, answers, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL, as `apibaseurl` wants it.
    pub fn base_url(&self) -> String {
        format!("http://{}/api/v4", self.address)
    }

    /// Serves another table from now on.
    pub fn replace_table(&self, table_json: String) {
        let table = Table::new(table_json);
        match self.answers.table.write() {
            Ok(mut current) => *current = table,
            // Nothing is done under the lock that could leave a table half replaced.
            Err(poisoned) => *poisoned.into_inner() = table,
        }
    }

    /// Stops, and waits until the port is free.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the server has been printed, and there is nothing left to stop.
            let _ = thread.join();
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.end();
    }
}

async fn macs(State(answers): State<Arc<Answers>>, request: HeaderMap) -> Response {
    let sent = |name: &str| request.get(name).and_then(|value| value.to_str().ok());
    if sent(API_KEY_HEADER) != Some(&answers.key) {
        return (StatusCode::FORBIDDEN, "Forbidden").into_response();
    }
    let table = match answers.table.read() {
        Ok(table) => table,
        Err(poisoned) => poisoned.into_inner(),
    };
    let etag = [(header::ETAG, table.etag.clone())];
    if sent("If-None-Match") == Some(&table.etag) {
        return (StatusCode::NOT_MODIFIED, etag).into_response();
    }
    (etag, [(header::CONTENT_TYPE, "application/json")], table.json.clone()).into_response()
}
