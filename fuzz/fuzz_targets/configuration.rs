//! ixpmanager.conf: whatever the text is, settings or an error that says where, and never a panic.

#![no_main]

use ixflow::control::config::{Config, ConfigError};

libfuzzer_sys::fuzz_target!(|text: &str| {
    for text in [text.to_owned(), format!("<ixp>\n{text}\n</ixp>")] {
        match Config::from_text("fuzz.conf", &text, &[]) {
            Ok(config) => accepted(&config),
            Err(error @ (ConfigError::Syntax(_) | ConfigError::Invalid(_))) => {
                assert!(error.to_string().starts_with("fuzz.conf:"), "{error}");
            }
            Err(error) => assert!(matches!(error, ConfigError::NoBlock { .. }), "{error}"),
        }
    }

    // The same lines, each as an option of the command line.
    let overrides: Vec<String> = text.lines().map(str::to_owned).collect();
    match Config::from_text("fuzz.conf", "<ixp>\n</ixp>", &overrides) {
        Ok(config) => accepted(&config),
        Err(error) => assert!(error.to_string().starts_with("--set: "), "{error}"),
    }
});

/// Whatever is accepted is within its limits, and can be shown.
fn accepted(config: &Config) {
    assert!(!config.to_toml().is_empty());
    assert!(config.fixed_changes(config).is_empty());
    assert_eq!(config.portal().is_ok(), config.api_key.is_some() && config.api_base_url.is_some());
    assert!((1..=256).contains(&config.workers));
    assert!((1..=64).contains(&config.listen.len()));
    assert_eq!(300 % config.flush_secs, 0);
}
