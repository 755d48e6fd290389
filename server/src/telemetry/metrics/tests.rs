use super::*;

/// A picture with a figure of its own in each place.
fn picture() -> Picture {
    let labels = AccountLabels {
        account: "shop".to_owned(),
        provider: "masumi",
    };
    let lag = Histogram::new([0.1, 0.25]);
    lag.observe(0.2);
    let seen = Seen {
        bounds: &[1_000, 2_000_000],
        counts: vec![1, 0, 2],
        sum: 9_500_000,
    };
    Picture {
        accounts: vec![AccountPicture {
            labels,
            requests: vec![("poll", "answered", 7)],
            request_times: vec![("poll", seen.clone())],
            by_age: vec![("PAID", "hour", 2)],
            unclear: 7,
            unmapped: 8,
            budget_left: Some(50),
            unreadable: 1,
            nowhere: 6,
            open: 3,
            due: 2,
            late: Duration::from_millis(1_500),
            held_back: 1,
            budget_used: Some(0.5),
            breaker_open: true,
            in_flight: 4,
            health: "degraded",
            tls_is_stale: Some(true),
            lag,
        }],
        streams: 9,
        journal_available: true,
        machine_ahead_ms: Some(-1_500),
        streams_open: vec![("feed", 4)],
        streams_ended: vec![("feed", "aged", 3)],
        first_event: vec![("feed", seen.clone())],
        push_delay: vec![("commit", seen.clone())],
        transitions: vec![("shop".to_owned(), "PAID", 1)],
        group_sizes: seen.clone(),
        commits: Histogram::new([0.1]),
        connections: 5,
        calls: vec![("GetStatus", "UNAUTHENTICATED", 6)],
        call_times: vec![("GetStatus", seen)],
        refusals: vec![("DRAINING", 2)],
        refused_attempts: vec![("NO_TOKEN", 14)],
        limits: vec![("connections", 8)],
        settings_are_stale: true,
        reloads_failed: 4,
        tls: Some(TlsPicture {
            expires_s: 4_102_444_800,
            is_stale: true,
            reloads_failed: 2,
            handshakes_failed: 3,
        }),
        log_bytes: 4_096,
        log_is_pinned: true,
        oldest_reader: Duration::from_secs(6),
        unreadable_rows: 5,
        audit: outlet::Figures {
            written: 11,
            left_out: 12,
            failures: 13,
        },
        log: outlet::Figures {
            written: 21,
            left_out: 22,
            failures: 23,
        },
        traces: None,
        restarts: vec![("feed", 2)],
        loops: vec![
            LoopPicture {
                name: "lane",
                is_stuck: true,
                silent: Duration::from_secs(31),
            },
            LoopPicture {
                name: "lane",
                is_stuck: false,
                silent: Duration::from_secs(2),
            },
        ],
        process: ProcessPicture {
            cpu: Duration::from_millis(2_500),
            resident_bytes: 4_096,
            open_files: 12,
            tasks: 9,
            ..ProcessPicture::default()
        },
    }
}

#[test]
fn a_picture_is_told_by_account_in_fixed_words() {
    let text = render(&picture()).unwrap();
    let of = "account=\"shop\",provider=\"masumi\"";
    for line in [
        format!("tillwatch_upstream_requests_total{{{of},class=\"poll\",outcome=\"answered\"}} 7"),
        format!("tillwatch_unreadable_answers_total{{{of}}} 1"),
        format!("tillwatch_nowhere_answers_total{{{of}}} 6"),
        format!("tillwatch_open_purchases{{{of}}} 3"),
        format!("tillwatch_due{{{of}}} 2"),
        format!("tillwatch_late_seconds{{{of}}} 1.5"),
        format!("tillwatch_held_back{{{of}}} 1"),
        format!("tillwatch_budget_used_ratio{{{of}}} 0.5"),
        format!("tillwatch_breaker_open{{{of}}} 1"),
        format!("tillwatch_requests_in_flight{{{of}}} 4"),
        format!("tillwatch_account_health{{{of},health=\"degraded\"}} 1"),
        format!("tillwatch_account_health{{{of},health=\"ok\"}} 0"),
        format!("tillwatch_account_tls_files_stale{{{of}}} 1"),
        format!("tillwatch_poll_lag_seconds_count{{{of}}} 1"),
        format!("tillwatch_poll_lag_seconds_bucket{{le=\"0.25\",{of}}} 1"),
        "tillwatch_transitions_total{account=\"shop\",state=\"PAID\"} 1".to_owned(),
        "tillwatch_commit_seconds_count 0".to_owned(),
        format!("tillwatch_upstream_request_seconds_sum{{{of},class=\"poll\"}} 9.5"),
        format!("tillwatch_open_purchases_by_age{{{of},state=\"PAID\",age=\"hour\"}} 2"),
        format!("tillwatch_unclear_creates{{{of}}} 7"),
        format!("tillwatch_unmapped_words_total{{{of}}} 8"),
        format!("tillwatch_budget_left{{{of}}} 50"),
        "tillwatch_streams_open{kind=\"feed\"} 4".to_owned(),
        "tillwatch_streams_ended_total{kind=\"feed\",reason=\"aged\"} 3".to_owned(),
        "tillwatch_first_event_seconds_bucket{le=\"2.0\",kind=\"feed\"} 1".to_owned(),
        "tillwatch_push_delay_seconds_bucket{le=\"+Inf\",since=\"commit\"} 3".to_owned(),
        "tillwatch_commit_writes_count 3".to_owned(),
        "tillwatch_call_seconds_bucket{le=\"0.001\",method=\"GetStatus\"} 1".to_owned(),
        "tillwatch_refusals_total{reason=\"DRAINING\"} 2".to_owned(),
        "tillwatch_journal_oldest_reader_seconds 6.0".to_owned(),
        "tillwatch_machine_clock_ahead_seconds -1.5".to_owned(),
        "tillwatch_runtime_tasks 9".to_owned(),
        "process_cpu_seconds_total 2.5".to_owned(),
        "process_resident_memory_bytes 4096".to_owned(),
        "process_open_fds 12".to_owned(),
        "tillwatch_streams 9".to_owned(),
        "tillwatch_connections 5".to_owned(),
        "tillwatch_calls_total{method=\"GetStatus\",code=\"UNAUTHENTICATED\"} 6".to_owned(),
        "tillwatch_refused_attempts_total{reason=\"NO_TOKEN\"} 14".to_owned(),
        "tillwatch_limits_met_total{limit=\"connections\"} 8".to_owned(),
        "tillwatch_journal_available 1".to_owned(),
        "tillwatch_journal_log_bytes 4096".to_owned(),
        "tillwatch_journal_log_pinned 1".to_owned(),
        "tillwatch_journal_unreadable_rows_total 5".to_owned(),
        "tillwatch_audit_lines_total{outcome=\"written\"} 11".to_owned(),
        "tillwatch_audit_lines_total{outcome=\"left_out\"} 12".to_owned(),
        "tillwatch_audit_write_failures_total 13".to_owned(),
        "tillwatch_log_lines_total{outcome=\"written\"} 21".to_owned(),
        "tillwatch_log_lines_total{outcome=\"left_out\"} 22".to_owned(),
        "tillwatch_log_write_failures_total 23".to_owned(),
        "tillwatch_loop_restarts_total{loop=\"feed\"} 2".to_owned(),
        "tillwatch_loop_stuck{loop=\"lane\"} 1".to_owned(),
        "tillwatch_loop_silent_seconds{loop=\"lane\"} 31.0".to_owned(),
        format!(
            "tillwatch_build_info{{version=\"{}\"}} 1",
            env!("CARGO_PKG_VERSION")
        ),
    ] {
        assert!(text.lines().any(|told| told == line), "{line}\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn spans_are_told_by_their_ends() {
    let mut registry = Registry::with_prefix("tillwatch");
    let figures = traces::Figures {
        exported: 11,
        overflowed: 12,
        undelivered: 13,
    };
    spans(&mut registry, &figures);
    let mut text = String::new();
    text::encode(&mut text, &registry).unwrap();
    for line in [
        "tillwatch_trace_spans_exported_total 11",
        "tillwatch_trace_spans_dropped_total{reason=\"queue_full\"} 12",
        "tillwatch_trace_spans_dropped_total{reason=\"undelivered\"} 13",
    ] {
        assert!(text.lines().any(|told| told == line), "{line}\n{text}");
    }
}
