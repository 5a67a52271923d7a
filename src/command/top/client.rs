//! What is asked of the daemon, and what of its answers is shown.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::ValueEnum;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::{StatusCode, Url, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::control::api::{causes, without_userinfo};
use crate::control::config::{BaseUrl, HttpToken};
use crate::finding::Level;

/// Bytes of an answer, decompressed, at the most: 60,000 VLANs, 512 agents and 1,000 pairs are
/// five megabytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long an answer may take in all: a view of a million pairs takes a second.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(10);

/// What is shown.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, ValueEnum)]
pub(super) enum View {
    /// Who sends how much to whom.
    #[default]
    Pairs,
    /// Who sends and receives how much.
    Members,
    /// What comes from each agent.
    Agents,
    /// What is not counted, by reason.
    Losses,
    /// What looks wrong.
    Findings,
}

impl View {
    pub(super) const ALL: [View; 5] =
        [View::Pairs, View::Members, View::Agents, View::Losses, View::Findings];

    pub(super) fn title(self) -> &'static str {
        match self {
            View::Pairs => "Pairs",
            View::Members => "Members",
            View::Agents => "Agents",
            View::Losses => "Losses",
            View::Findings => "Findings",
        }
    }

    /// Whether it is of the live view, which costs the daemon something while it is looked at.
    pub(super) fn is_live(self) -> bool {
        matches!(self, View::Pairs | View::Members)
    }
}

/// The order of pairs and members.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, ValueEnum)]
pub(super) enum Sort {
    /// Most bits a second first.
    #[default]
    Bits,
    /// Most packets a second first.
    Packets,
    /// The smallest relative error first.
    Error,
}

impl Sort {
    pub(super) fn name(self) -> &'static str {
        match self {
            Sort::Bits => "bits",
            Sort::Packets => "packets",
            Sort::Error => "error",
        }
    }
}

/// IP protocols.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, ValueEnum)]
pub(super) enum Protocol {
    /// The sum.
    #[default]
    Both,
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Protocol::Both => "both",
            Protocol::Ipv4 => "ipv4",
            Protocol::Ipv6 => "ipv6",
        }
    }
}

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Query {
    pub(super) view: View,
    pub(super) sort: Sort,
    pub(super) protocol: Protocol,
    pub(super) infrastructure: Option<u32>,
    pub(super) vlan: Option<u16>,
    pub(super) vli: Option<u32>,
    /// Pairs and members at the most.
    pub(super) rows: usize,
}

impl Query {
    /// The parameters of `/live.json`. The matrix itself is not shown: one cell is its least.
    fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut parameters = vec![
            ("protocol", self.protocol.name().to_owned()),
            ("sort", self.sort.name().to_owned()),
            ("top", self.rows.to_string()),
            ("side", "1".to_owned()),
        ];
        let filters = [
            ("infrastructure", self.infrastructure),
            ("vlan", self.vlan.map(u32::from)),
            ("vli", self.vli),
        ];
        for (name, value) in filters {
            parameters.extend(value.map(|value| (name, value.to_string())));
        }
        parameters
    }
}

/// What is shown of `/status.json`.
#[derive(Clone, Default, Debug, Deserialize)]
pub(super) struct Status {
    pub(super) version: String,
    pub(super) now_millis: u64,
    pub(super) uptime_secs: u64,
    pub(super) ready: bool,
    pub(super) received: Received,
    pub(super) flow_samples_per_sec: Option<f64>,
    pub(super) socket_drops: Option<u64>,
    pub(super) agents_known: usize,
    pub(super) agents: Vec<Agent>,
    pub(super) other_agents: Received,
    pub(super) findings: Vec<Found>,
}

/// What came, and what became of it.
#[derive(Clone, Default, Debug, Deserialize)]
pub(super) struct Received {
    pub(super) flow_samples: u64,
    pub(super) counted: u64,
    pub(super) losses: BTreeMap<String, u64>,
    pub(super) sequence_gaps: u64,
    pub(super) agent_drops: u64,
}

/// One agent.
#[derive(Clone, Default, Debug, Deserialize)]
pub(super) struct Agent {
    pub(super) address: String,
    pub(super) sub_agent_id: u32,
    pub(super) received: Received,
    pub(super) flow_samples_per_sec: Option<f64>,
    pub(super) sampling_rates: [u32; 2],
    pub(super) last_seen_millis: u64,
}

/// One finding.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Found {
    pub(super) level: Level,
    pub(super) name: String,
    pub(super) subject: String,
    pub(super) what: String,
    pub(super) why: String,
    pub(super) remedy: String,
}

/// What is shown of `/live.json`.
#[derive(Clone, Default, Debug, Deserialize)]
pub(super) struct Live {
    /// False while the first seconds are being counted.
    pub(super) ready: bool,
    pub(super) from_millis: u64,
    pub(super) to_millis: u64,
    pub(super) lans: Vec<Lan>,
    /// The one that is shown; none if none fits the filters.
    pub(super) lan: Option<Lan>,
    pub(super) total: Rate,
    pub(super) members: Vec<Member>,
    pub(super) pairs: Vec<Pair>,
}

/// A VLAN.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
pub(super) struct Lan {
    pub(super) infrastructure: u32,
    /// 0 where frames have no tag.
    pub(super) vlan: u16,
    pub(super) vlis: usize,
}

/// A rate, and on how many samples it rests.
#[derive(Clone, Copy, Default, Debug, Deserialize)]
pub(super) struct Rate {
    pub(super) bits_per_sec: f64,
    pub(super) packets_per_sec: f64,
    pub(super) samples: u64,
}

/// What a VLI sends and receives.
#[derive(Clone, Copy, Default, Debug, Deserialize)]
pub(super) struct Member {
    pub(super) vli: u32,
    pub(super) out: Rate,
    #[serde(rename = "in")]
    pub(super) into: Rate,
}

/// What a VLI sends to another.
#[derive(Clone, Copy, Default, Debug, Deserialize)]
pub(super) struct Pair {
    pub(super) source: u32,
    pub(super) destination: u32,
    #[serde(flatten)]
    pub(super) rate: Rate,
}

/// What one look at the daemon brings.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) status: Status,
    /// For the views that are of it.
    pub(super) live: Option<Live>,
}

/// No answer, or none that is ixflow's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{url}: {fault}")]
pub struct FetchError {
    url: String,
    fault: String,
}

impl FetchError {
    pub(super) fn new(url: &str, fault: impl Into<String>) -> FetchError {
        FetchError { url: url.to_owned(), fault: fault.into() }
    }
}

/// Asks one daemon.
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    shown_url: String,
    token: Option<HeaderValue>,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// A client for the daemon at `base`. Nothing is sent yet.
    pub(super) fn new(base: &BaseUrl, token: Option<HttpToken>) -> Result<Client, FetchError> {
        let base = base.expose();
        let shown_url = without_userinfo(base.as_str()).trim_end_matches('/').to_owned();
        let error = |fault: String| FetchError::new(&shown_url, fault);
        // As for the portal's API: ring. It fails only if a provider is there already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("ixflow/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TOTAL_TIMEOUT)
            // The token would go along, perhaps to another host.
            .redirect(redirect::Policy::none());
        if base.scheme() == "http" {
            // Without TLS it must also work on a system that has no authorities.
            builder = builder.tls_certs_only([]);
        }
        let host = base.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let address: Option<std::net::IpAddr> = host.parse().ok();
        if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            // A proxy of the environment has another loopback.
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|cause| error(causes(&cause)))?;
        let token = token.map(|token| {
            let value = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
            value.map(|mut value| {
                value.set_sensitive(true);
                value
            })
        });
        let token =
            token.transpose().map_err(|_| error("the token does not fit into a header".into()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|cause| error(cause.to_string()))?;
        Ok(Client { http, base: base.clone(), shown_url, token, runtime })
    }

    /// The daemon's address, without user and password.
    pub(super) fn url(&self) -> &str {
        &self.shown_url
    }

    /// Asks for what the view of `query` needs.
    pub(super) fn look(&self, query: &Query) -> Result<Look, FetchError> {
        self.runtime.block_on(async {
            let status = self.get("/status.json", &[]).await?;
            let live = if query.view.is_live() {
                Some(self.get("/live.json", &query.parameters()).await?)
            } else {
                None
            };
            Ok(Look { status, live })
        })
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        parameters: &[(&str, String)],
    ) -> Result<T, FetchError> {
        let error = |fault: String| FetchError::new(&format!("{}{path}", self.shown_url), fault);
        let transport = |cause: reqwest::Error| {
            error(if cause.is_timeout() {
                let limit = if cause.is_connect() { CONNECT_TIMEOUT } else { TOTAL_TIMEOUT };
                format!("no whole answer within {limit:?}; expected ixflow's HTTP server there")
            } else {
                format!(
                    "no answer: {}; expected ixflow's HTTP server there: does ixflow run, and is \
                     this an address of its sflow_http_listen? --url names another",
                    causes(&cause)
                )
            })
        };
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        if !parameters.is_empty() {
            url.query_pairs_mut().extend_pairs(parameters);
        }
        let mut request = self.http.get(url).header(ACCEPT, "application/json");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        let mut response = request.send().await.map_err(transport)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED if self.token.is_some() => {
                let fault = "HTTP 401: the token is refused; expected the sflow_http_token with \
                             which ixflow was started";
                return Err(error(fault.into()));
            }
            StatusCode::UNAUTHORIZED => {
                let fault = "HTTP 401: expected the token of sflow_http_token: name the \
                             configuration with --config, or a file with the token with \
                             --token-file";
                return Err(error(fault.into()));
            }
            status => {
                return Err(error(format!(
                    "HTTP {status}: expected status 200 of an ixflow {}",
                    env!("CARGO_PKG_VERSION")
                )));
            }
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(transport)? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(error(format!("the answer is longer than {ANSWER_BYTES_MAX} bytes")));
            }
        }
        serde_json::from_slice(&body).map_err(|cause| {
            error(format!("expected the JSON of ixflow {}: {cause}", env!("CARGO_PKG_VERSION")))
        })
    }
}
