//! ixpmanager.conf, from the file to the settings, and the documents about it.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use ixflow::control::api::MacTableKind;
use ixflow::control::config::{AGENT_BLOCK, AGENT_KEYS, Config, KEYS, Key, RrdcachedUse};
use ixflow::ixp::{InfrastructureId, VlanTag};
use ixflow::receive::Spread;
use ixflow::resolve::{CorePorts, Decapsulate, Direction};
use ixflow::sink::{Aggregates, Create};

/// The example of IXP Manager's documentation (docs.ixpmanager.org, sFlow, configuration).
const DOCUMENTED: &str = "\
<ixp>
	sflowtool = /usr/bin/sflowtool
	sflowtool_opts = -4 -p 6343 -l
	sflow_rrdcached = 1
	sflow_rrddir = /data/ixpmatrix
	apikey = your-api-key
	apibaseurl = http://www.example.com/ixp/api/v4
	macdbtype = configured
</ixp>
";

fn settings(lines: &str) -> Config {
    Config::from_text("t.conf", &format!("<ixp>\n{lines}\n</ixp>"), &[]).unwrap()
}

fn fault(lines: &str) -> String {
    Config::from_text("t.conf", &format!("<ixp>\n{lines}\n</ixp>"), &[]).unwrap_err().to_string()
}

fn with(overrides: &[&str]) -> Result<Config, String> {
    let overrides: Vec<_> = overrides.iter().map(ToString::to_string).collect();
    Config::from_text("t.conf", DOCUMENTED, &overrides).map_err(|error| error.to_string())
}

#[test]
fn the_documented_configuration_works_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ixpmanager.conf");
    fs::write(&path, format!("<sql>\n\tdbase_password = a#b\\\n</sql>\n{DOCUMENTED}")).unwrap();
    let config = Config::load(Some(&path), &[]).unwrap();
    assert_eq!(config.file.as_deref(), Some(&*path));
    assert_eq!(config.rrdcached, RrdcachedUse::Rrdcached);
    assert_eq!(config.rrd_dir, Path::new("/data/ixpmatrix"));
    assert_eq!(config.mac_table, MacTableKind::Configured);
    assert_eq!(config.listen, ["0.0.0.0:6343".parse().unwrap()]);
    let portal = config.portal().unwrap();
    assert_eq!(portal.key.expose(), "your-api-key");
    assert_eq!(portal.base_url.to_string(), "http://www.example.com/ixp/api/v4");
    // One notice, about sflowtool.
    let expected = format!(
        "{}:5: sflowtool and sflowtool_opts are ignored, for ixflow receives sFlow itself; only \
         -p, -4 and -6 are honoured, where sflow_listen is absent",
        path.display()
    );
    assert_eq!(config.notices, [expected]);
}

#[test]
fn every_new_setting_is_read() {
    let config = settings(
        "sflow_rrdcached = 0\n\
         sflow_rrdcached_socket cache.example:42217, /run/b.sock\n\
         sflow_rrdcached_socket unix:/run/b.sock [::1]:7\n\
         SFLOW_LISTEN = 192.0.2.1:7000, 192.0.2.2\n\
         sflow_listen = [2001:db8::1]:7000 192.0.2.2:6343\n\
         sflow_workers 3\n\
         sflow_flush_secs = \"60\"\n\
         sflow_statedir = /tmp/state\n\
         sflow_infraid = 2\n\
         sflow_rrdcached_timeout_secs = 11\n\
         sflow_state_save_secs = 12\n\
         sflow_memory_intervals = 13\n\
         sflow_spool_hours = 14\n\
         sflow_spool_bytes = 15M\n\
         sflow_resend_secs = 16\n\
         sflow_api_interval_secs = 10\n\
         sflow_create = all\n\
         sflow_aggregates = infrastructure\n\
         sflow_spread = datagram\n\
         sflow_receive_buffer_bytes = 1M\n\
         sflow_agents_allow = 192.0.2.0/24\n\
         sflow_agents_allow = 2001:db8::/32 198.51.100.1\n\
         sflow_agents_max = 7\n\
         sflow_data_sources_max = 8\n\
         debug = 1\n\
         <sflow_agent 192.0.2.1>\nsampling_rate = 4096\ndirection = egress\n\
         vlan_alias = 2017=10, 33:99=20\nvlan_alias 34:99=30\nuntagged_vlan = 10\n\
         infrastructure = 2\ndecapsulate = vxlan:8472 mpls\ncore_ports = 49, 7 49\n</sflow_agent>\n\
         <sflow_agent 2001:DB8::0>\ndirection = both\ncore_ports = auto\ndecapsulate = vxlan pbb\n\
         </sflow_agent>",
    );
    assert_eq!(config.rrdcached, RrdcachedUse::Direct);
    let sockets: Vec<String> = config.rrdcached_sockets.iter().map(|at| at.to_string()).collect();
    assert_eq!(sockets, ["cache.example:42217", "unix:/run/b.sock", "[::1]:7"]);
    let listen = ["192.0.2.1:7000", "192.0.2.2:6343", "[2001:db8::1]:7000"];
    assert_eq!(config.listen, listen.map(|address| address.parse().unwrap()));
    assert_eq!((config.workers, config.flush_secs, config.api_interval_secs), (3, 60, 10));
    assert_eq!(config.state_dir, Path::new("/tmp/state"));
    assert_eq!(config.infrastructure, Some(InfrastructureId(2)));
    assert_eq!((config.rrdcached_timeout_secs, config.state_save_secs), (11, 12));
    assert_eq!((config.memory_intervals, config.spool_hours), (13, 14));
    assert_eq!((config.spool_bytes, config.resend_secs), (15 << 20, 16));
    assert_eq!(config.create, Create::All);
    assert_eq!(config.aggregates, Aggregates::Infrastructure);
    assert_eq!(config.spread, Spread::Datagram);
    assert_eq!(config.receive_buffer_bytes, 1 << 20);
    assert_eq!((config.agents_max, config.data_sources_max, config.debug), (7, 8, true));
    let allow: Vec<_> = config.agents_allow.iter().map(ToString::to_string).collect();
    assert_eq!(allow, ["192.0.2.0/24", "2001:db8::/32", "198.51.100.1/32"]);
    let agent = |address: &str| &config.agents[&address.parse::<IpAddr>().unwrap()];
    assert_eq!(agent("192.0.2.1").sampling_rate, Some(4096));
    assert_eq!(agent("192.0.2.1").direction, Direction::Egress);
    let aliases: Vec<_> = agent("192.0.2.1").vlan_aliases.iter().map(ToString::to_string).collect();
    assert_eq!(aliases, ["2017=10", "33:99=20", "34:99=30"]);
    assert_eq!(agent("192.0.2.1").untagged_vlan, Some(VlanTag::new(10)));
    assert_eq!(agent("192.0.2.1").infrastructure, Some(InfrastructureId(2)));
    let decapsulate = Decapsulate { vxlan_port: Some(8_472), mpls: true, pbb: false };
    assert_eq!(agent("192.0.2.1").decapsulate, decapsulate);
    assert_eq!(agent("192.0.2.1").core_ports, CorePorts::List([7, 49].into()));
    assert_eq!(agent("2001:db8::").core_ports, CorePorts::Auto);
    let decapsulate = Decapsulate { vxlan_port: Some(4_789), mpls: false, pbb: true };
    assert_eq!(agent("2001:db8::").decapsulate, decapsulate);
    assert_eq!(agent("2001:db8::").sampling_rate, None);
    assert_eq!(agent("2001:db8::").direction, Direction::Both);
    assert_eq!(config.notices, [""; 0]);
}

#[test]
fn a_key_without_a_value_is_absent() {
    // As in the file that IXP Manager ships.
    let shipped = "sflow_rrdcached =\nsflowtool = \nsflowtool_opts =\nsflow_rrddir =\nmap_vlans 0";
    assert_eq!(settings(shipped), Config::default());
}

#[test]
fn faults_say_where_what_and_what_was_expected() {
    for (line, expected) in [
        (
            "sflow_flush_secs = 77",
            "t.conf:2: sflow_flush_secs = 77: expected a divisor of 300, at least 10 (seconds)",
        ),
        (
            "sflow_flush_sec = 60",
            "t.conf:2: sflow_flush_sec is no setting of ixflow: did you \
          mean sflow_flush_secs?",
        ),
        (
            "sflow_agnet x",
            "t.conf:2: sflow_agnet is no setting of ixflow: did you mean \
          sflow_agent?",
        ),
        (
            "<sflow_qqqqqqqqqqqqqqq>\n</sflow_x>",
            "t.conf:2: sflow_qqqqqqqqqqqqqqq is no setting of \
          ixflow; docs/settings.md lists all",
        ),
        ("debug = yes", "t.conf:2: debug = yes: expected 0 or 1"),
        ("macdbtype = learned", "t.conf:2: macdbtype = learned: expected configured or discovered"),
        ("debug 0\n\ndebug 1", "t.conf:4: debug has a value already, at t.conf:2: expected one"),
        ("apikey = a b", "t.conf:2: apikey = ***: expected an API key of IXP Manager"),
        (
            "apibaseurl = ftp://user:secret@x/api/v4",
            "t.conf:2: apibaseurl = ftp://***@x/api/v4: expected the http or https address of \
             IXP Manager's API, ending in /api/v4",
        ),
        (
            "sflow_agents_allow = 192.0.2.1/24",
            "t.conf:2: sflow_agents_allow = 192.0.2.1/24: \
          expected IP prefixes as 192.0.2.0/24 2001:db8::/32, without host bits",
        ),
        (
            "sflowtool_opts = -p x",
            "t.conf:2: sflowtool_opts = -p x: expected options of \
          sflowtool, with a port behind -p",
        ),
        ("<debug>\n</debug>", "t.conf:2: <debug>: expected debug = 0 or 1"),
        (
            "sflow_agent = 192.0.2.1",
            "t.conf:2: sflow_agent without a block: expected \
          <sflow_agent ADDRESS> ... </sflow_agent>",
        ),
        (
            "<sflow_agent x>\n</sflow_agent>",
            "t.conf:2: <sflow_agent x>: expected <sflow_agent \
          ADDRESS>, an IPv4 or IPv6 agent address",
        ),
        (
            "<sflow_agent ::1>\nsampling_rat = 1\n</sflow_agent>",
            "t.conf:3: sampling_rat is no \
          setting of ixflow: did you mean sampling_rate?",
        ),
        (
            "<sflow_agent ::1>\nsampling_rate = 0\n</sflow_agent>",
            "t.conf:3: sampling_rate = 0: \
          expected a number, 1 to 4294967295",
        ),
        (
            "<sflow_agent ::1>\n<direction>\n</direction>\n</sflow_agent>",
            "t.conf:3: <direction>: \
          expected no block here",
        ),
    ] {
        assert_eq!(fault(line), expected);
    }
}

#[test]
fn all_faults_are_told_at_once() {
    let text = fault("sflow_workers = 0\nsflow_x = 1\nsflow_workers = 2\nsflow_agents_max = 0");
    let lines = text.lines().map(|line| line.split(' ').take(2).collect());
    let lines: Vec<Vec<_>> = lines.collect();
    assert_eq!(
        lines,
        [
            ["t.conf:3:", "sflow_x"],
            ["t.conf:2:", "sflow_workers"],
            ["t.conf:4:", "sflow_workers"],
            ["t.conf:5:", "sflow_agents_max"],
        ]
    );
}

#[test]
fn what_belongs_to_others_is_left_alone() {
    let config = Config::from_text(
        "t.conf",
        "<SQL x>\n<a>\nsflow_nonsense = <\n</b>\n=\n</SQL>\nsflow_nonsense 1\n<sflow_x/>\n\
         <ixp>\nmap_vlan_query = SELECT a \\\n FROM b\n<map x>\n</map>\nkey = a#b\n=\n</ixp>\n\
         <ixp>\ndebug 1\n</ixp>\n<ixp label>\nsflow_x 1\n</ixp>",
        &[],
    )
    .unwrap();
    assert_eq!(config.notices, ["t.conf:4: </b> closes <a> of line 2"]);
    assert_eq!(
        config,
        Config { debug: true, notices: config.notices.clone(), ..Config::default() }
    );
    let error = Config::from_text("t.conf", "<sql>\n</sql>", &[]).unwrap_err().to_string();
    assert!(error.starts_with("t.conf: no <ixp> block"), "{error}");
}

#[test]
fn probable_mistakes_are_worth_a_notice() {
    for (lines, expected) in [
        ("apikye = x", "t.conf:2: did you mean apikey by apikye?"),
        (
            "apikey = ab#cd",
            "t.conf:2: the value of apikey ends at the #, as IXP Manager's scripts \
          read it: write \\# if it belongs to the value",
        ),
        (
            "sflow_macdbtype = configured",
            "t.conf:2: sflow_macdbtype is the old name of macdbtype: \
          it is read, but rename it",
        ),
        (
            "macdbtype = configured\nsflow_macdbtype = discovered",
            "t.conf:3: sflow_macdbtype is the \
          old name of macdbtype: macdbtype at t.conf:2 has the last word",
        ),
    ] {
        assert_eq!(settings(lines).notices, [expected]);
    }
    assert_eq!(settings("sflow_macdbtype = configured").mac_table, MacTableKind::Configured);
    let both = "macdbtype = configured\nsflow_macdbtype = discovered";
    assert_eq!(settings(both).mac_table, MacTableKind::Configured);
}

#[test]
fn overrides_go_before_the_file() {
    let config =
        with(&["sflow_rrddir = /x=y", "macdbtype=", "SFLOW_LISTEN=1", "sflow_listen=[::1]:2"])
            .unwrap();
    assert_eq!(config.rrd_dir, Path::new("/x=y"));
    assert_eq!(config.mac_table, MacTableKind::Learned);
    let listen = ["[::]:1", "[::1]:2"];
    assert_eq!(config.listen, listen.map(|address| address.parse().unwrap()));
    let agents = ["sflow_agent.192.0.2.1.direction=both", "sflow_agent.::1.sampling_rate=5"];
    let config = with(&agents).unwrap();
    assert_eq!(config.agents[&"192.0.2.1".parse().unwrap()].direction, Direction::Both);
    assert_eq!(config.agents[&"::1".parse().unwrap()].sampling_rate, Some(5));
    for (text, expected) in [
        ("debug", "--set: debug: expected key=value"),
        ("debug=2", "--set: debug = 2: expected 0 or 1"),
        ("debgu=1", "--set: debgu is no setting of ixflow: did you mean debug?"),
        ("sflow_agent=1", "--set: sflow_agent: expected sflow_agent.ADDRESS.KEY=VALUE"),
        ("sflow_agent.::1.x=1", "--set: x is no setting of ixflow; docs/settings.md lists all"),
    ] {
        assert_eq!(with(&[text]).unwrap_err(), expected);
    }
}

#[test]
fn the_key_is_never_shown() {
    let secret = "s3cr3t";
    let config = with(&[
        &format!("apikey={secret}"),
        &format!("apibaseurl=https://user:{secret}@portal.example/api/v4/"),
    ])
    .unwrap();
    let portal = config.portal().unwrap();
    assert_eq!(portal.key.expose(), secret);
    let toml = config.to_toml();
    assert!(toml.contains("apikey = \"***\""), "{toml}");
    assert!(toml.contains("apibaseurl = \"https://user:***@portal.example/api/v4\""), "{toml}");
    for shown in [toml, format!("{config:?}"), format!("{portal:?}")] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn a_portal_needs_a_key_and_an_address() {
    let error = settings("").portal().unwrap_err().to_string();
    assert_eq!(
        error,
        "the settings: apikey is missing in <ixp>: expected an API key of IXP Manager\n\
         the settings: apibaseurl is missing in <ixp>: expected the http or https address of IXP \
         Manager's API, ending in /api/v4"
    );
}

#[test]
fn settings_in_force_read_back_as_they_were() {
    for config in [
        settings(""),
        settings(
            "sflow_rrdcached 1\nsflow_infraid 3\nsflow_listen [::1]:1 2\nsflow_workers 9\n\
             sflow_spread datagram\n\
             sflow_agents_allow 192.0.2.0/24, ::/0\nsflow_create all\ndebug 1\n\
             sflow_rrdcached_socket = h:1, /s\nsflow_rrddir = \"/a \\\"b\\\" \\#c\"\n\
             <sflow_agent ::1>\nsampling_rate 7\n</sflow_agent>",
        ),
    ] {
        let table: toml::Table = config.to_toml().parse().unwrap();
        let mut text = String::new();
        for (key, value) in &table {
            match value {
                toml::Value::Table(agents) => {
                    for (agent, keys) in agents {
                        writeln!(text, "<{key} {agent}>").unwrap();
                        for (key, value) in keys.as_table().unwrap() {
                            writeln!(text, "{key} = {}", plain(value)).unwrap();
                        }
                        writeln!(text, "</{key}>").unwrap();
                    }
                }
                toml::Value::Array(values) => {
                    for value in values {
                        writeln!(text, "{key} = {}", plain(value)).unwrap();
                    }
                }
                value => writeln!(text, "{key} = {}", plain(value)).unwrap(),
            }
        }
        assert_eq!(settings(&text), config, "{text}");
    }
}

fn plain(value: &toml::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), |text| text.replace('#', "\\#"))
}

#[test]
fn a_missing_or_unreadable_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("x.conf");
    let error = Config::load(Some(&missing), &[]).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: No such file", missing.display())), "{error}");
    let error = Config::load(Some(directory.path()), &[]).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: ", directory.path().display())), "{error}");
}

#[test]
fn included_files_are_found_beside_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.conf");
    fs::write(&path, "<ixp>\n<<include b.conf>>\n</ixp>").unwrap();
    fs::write(directory.path().join("b.conf"), "\ndebug = 2").unwrap();
    let error = Config::load(Some(&path), &[]).unwrap_err().to_string();
    let expected = directory.path().join("b.conf:2: debug = 2: expected 0 or 1");
    assert_eq!(Path::new(&error), expected);
}

const EXAMPLE: &str = include_str!("../ixpmanager.conf.example");

/// The example with every setting in force.
fn uncommented() -> String {
    EXAMPLE
        .lines()
        .map(|line| match line.trim_start().strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => setting,
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn off_is_no_address_among_others() {
    let off = "sflow_http_listen = off";
    assert!(settings(off).http_listen.is_empty());
    assert!(settings(&format!("{off}\n{off}")).http_listen.is_empty());
    let address = "sflow_http_listen = 127.0.0.1:8080";
    let expected = "sflow_http_listen = off: expected off alone, or addresses without it";
    for (line, lines) in [(3, [address, off]), (2, [off, address])] {
        let said = fault(&lines.join("\n"));
        assert!(said.contains(&format!("t.conf:{line}: {expected}")), "{said}");
    }
    let said = fault("sflow_http_listen = off 127.0.0.1:8080");
    assert!(said.contains("or off"), "{said}");
    // What is given on the command line is instead of the file.
    let text = format!("<ixp>\n{address}\n</ixp>");
    let overridden = Config::from_text("t.conf", &text, &["sflow_http_listen=off".to_owned()]);
    assert!(overridden.unwrap().http_listen.is_empty());
}

#[test]
fn the_example_works_as_it_is() {
    let config = Config::from_text("example", EXAMPLE, &[]).unwrap();
    config.portal().unwrap();
    let defaults = Config {
        api_key: config.api_key.clone(),
        api_base_url: config.api_base_url.clone(),
        ..Config::default()
    };
    assert_eq!(config, defaults);
}

#[test]
fn the_example_has_every_setting_with_its_default() {
    let text = uncommented();
    fn check<T>(text: &str, keys: &[Key<T>]) {
        for key in keys {
            let line = text.lines().find_map(|line| {
                line.trim().strip_prefix(key.name)?.trim_start().strip_prefix("= ")
            });
            let value = line.unwrap_or_else(|| panic!("{} is not in the example", key.name));
            if !key.default.is_empty() {
                assert_eq!(value, key.default, "{}", key.name);
            }
        }
    }
    check(&text, KEYS);
    check(&text, AGENT_KEYS);
    let config = Config::from_text("example", &text, &[]).unwrap();
    assert_eq!(config.agents.len(), 1);
    assert_eq!(config.workers, 4);
    // The old name and sflowtool are there on purpose; whatever else it says is a mistake.
    assert_eq!(config.notices.len(), 2, "{:?}", config.notices);
}

#[test]
fn the_document_has_every_setting() {
    let document = include_str!("../docs/settings.md");
    fn rows<T>(keys: &[Key<T>]) -> String {
        let mut rows = "| key | value | default | meaning |\n|---|---|---|---|\n".to_owned();
        for Key { name, expected, default, meaning, .. } in keys {
            let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
            writeln!(rows, "| `{name}` | {expected} | {default} | {meaning} |").unwrap();
        }
        rows
    }
    for rows in [rows(KEYS), rows(AGENT_KEYS)] {
        assert!(document.contains(&rows), "docs/settings.md must contain:\n{rows}");
    }
    assert!(document.contains(AGENT_BLOCK));
}
