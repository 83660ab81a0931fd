use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_secs(900);

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn request(method: Method) -> SecretRequest {
    SecretRequest { method, path: "x/y".into(), query: None, body: None }
}

fn read_result(envelope: &str, data: &str, creates: bool) -> ReadResult {
    let body = format!(r#"{{{envelope}"data":{data}}}"#);
    ReadResult { response: SecretResponse::parse(body.into_bytes()).unwrap(), mutating: creates }
}

fn certificate_json(days: i64, encode: impl Fn(&rcgen::Certificate) -> String) -> String {
    let mut params = rcgen::CertificateParams::new(["web.example".to_owned()]).unwrap();
    let expiry = Timestamp::now().as_second() + days * 86400;
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(expiry).unwrap());
    let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    serde_json::json!({ "certificate": encode(&certificate) }).to_string()
}

#[test]
fn secret_kind_follows_from_request_and_response() {
    let pem = certificate_json(30, rcgen::Certificate::pem);
    let der = certificate_json(30, |c| STANDARD.encode(c.der()));
    let lease = r#""lease_id":"a/b","lease_duration":900,"renewable":true,"#;
    for (method, envelope, data, kind) in [
        (Method::Get, lease, r#"{"username":"u"}"#, SecretKind::Leased),
        // PKI with generate_lease.
        (Method::Put, lease, &pem, SecretKind::Leased),
        // KV version 1 returns a duration without a lease.
        (Method::Get, r#""lease_id":"","lease_duration":2764800,"#, r#"{"a":1}"#, SecretKind::Plain),
        (Method::Put, "", &pem, SecretKind::Certificate),
        (Method::Post, "", &der, SecretKind::Certificate),
        // A certificate in KV, or the certificate of the CA, may be replaced at any time.
        (Method::Get, "", &pem, SecretKind::Plain),
        (Method::Put, "", r#"{"certificate":"none"}"#, SecretKind::Plain),
        (Method::Get, "", r#"{"password":"p","ttl":60,"rotation_period":3600,"username":"u"}"#, SecretKind::Static),
        (Method::Get, "", r#"{"password":"p","ttl":60,"rotation_schedule":"0 * * * *"}"#, SecretKind::Static),
        (Method::Get, "", r#"{"ttl":60}"#, SecretKind::Plain),
        (Method::Get, "", r#"{"ttl":"1h","rotation_period":60}"#, SecretKind::Plain),
        (Method::Put, "", r#"{"signature":"s"}"#, SecretKind::Plain),
    ] {
        let path = if data.contains("rotation") { "db/static-creds/app" } else { "x/y" };
        let request = SecretRequest { path: path.into(), ..request(method) };
        let lifecycle = Lifecycle::from_result(&request, &read_result(envelope, data, true), Instant::now());
        assert_eq!(lifecycle.kind(), kind, "{method} {envelope} {data}");
    }
    // A tenant's secret may have the same keys.
    let look_alike = read_result("", r#"{"ttl":0,"rotation_period":3600}"#, false);
    assert_eq!(Lifecycle::from_result(&request(Method::Get), &look_alike, Instant::now()).kind(), SecretKind::Plain);
}

#[test]
fn certificate_is_refreshed_after_two_thirds_of_its_validity() {
    let (now, day) = (Instant::now(), seconds(86400));
    let lifecycle = Lifecycle::from_result(
        &request(Method::Put),
        &read_result("", &certificate_json(30, rcgen::Certificate::pem), true),
        now,
    );
    for (after, action) in [
        (day, CacheAction::Reuse),
        (day * 19, CacheAction::Reuse),
        (day * 21, CacheAction::Refetch(RotationReason::RefreshDue)),
    ] {
        assert_eq!(lifecycle.next_action(&context_at(now + after, None)), action, "{after:?}");
    }
    assert!(!lifecycle.is_expired(None, now + day * 29) && lifecycle.is_expired(None, now + day * 31));
}

fn context_at(now: Instant, token_lifetime: Option<&Lifetime>) -> LifecycleContext<'_> {
    let refresh = Refresh::Every(seconds(120));
    LifecycleContext {
        now,
        token_lifetime,
        poll_interval: Some(seconds(70)),
        refresh,
        delivered: true,
        is_referenced: true,
    }
}

fn leased(lifetime: Lifetime) -> Lifecycle {
    Lifecycle::Leased { lease_id: "a/b".into(), lifetime: Box::new(lifetime) }
}

/// Covers a 15-minute lease that is polled every 70 seconds, with the action at each second of its lifetime.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn lease_action_depends_on_lease_and_token_lifetime() {
    let start = Instant::now();
    let cap = |lifetime: &mut Lifetime| {
        lifetime.apply_renewal(seconds(300), true, start);
    };
    let token_lifetime = Lifetime::new(seconds(3600), true, start);
    let cases: [(&str, Lifetime, Lifetime, u64, CacheAction); 14] = [
        ("fresh", Lifetime::new(TTL, true, start), token_lifetime.clone(), 0, CacheAction::Reuse),
        ("before two thirds", Lifetime::new(TTL, true, start), token_lifetime.clone(), 540, CacheAction::Reuse),
        ("at two thirds", Lifetime::new(TTL, true, start), token_lifetime.clone(), 600, CacheAction::Renew),
        (
            "near its end, and renewable",
            Lifetime::new(TTL, true, start),
            token_lifetime.clone(),
            890,
            CacheAction::Renew,
        ),
        (
            "over",
            Lifetime::new(TTL, true, start),
            token_lifetime.clone(),
            900,
            CacheAction::Refetch(RotationReason::Revoked),
        ),
        (
            "not renewable, three polls before",
            Lifetime::new(TTL, false, start),
            token_lifetime.clone(),
            689,
            CacheAction::Reuse,
        ),
        (
            "not renewable, near",
            Lifetime::new(TTL, false, start),
            token_lifetime.clone(),
            690,
            CacheAction::Refetch(RotationReason::MaxTtl),
        ),
        (
            "at its maximum",
            with_change(Lifetime::new(TTL, true, start), cap),
            token_lifetime.clone(),
            89,
            CacheAction::Reuse,
        ),
        (
            "at its maximum, near",
            with_change(Lifetime::new(TTL, true, start), cap),
            token_lifetime.clone(),
            90,
            CacheAction::Refetch(RotationReason::MaxTtl),
        ),
        (
            "renewal failed",
            with_change(Lifetime::new(TTL, true, start), |t| t.record_failure(start, false)),
            token_lifetime.clone(),
            600,
            CacheAction::Renew,
        ),
        (
            "renewal failed, near",
            with_change(Lifetime::new(TTL, true, start), |t| t.record_failure(start, false)),
            token_lifetime.clone(),
            795,
            CacheAction::Refetch(RotationReason::MaxTtl),
        ),
        ("token renews", Lifetime::new(TTL, true, start), Lifetime::new(TTL, true, start), 500, CacheAction::Reuse),
        (
            "token ends first",
            Lifetime::new(TTL, true, start),
            Lifetime::new(seconds(600), false, start),
            389,
            CacheAction::Reuse,
        ),
        (
            "token ends first, near",
            Lifetime::new(TTL, true, start),
            Lifetime::new(seconds(600), false, start),
            390,
            CacheAction::Refetch(RotationReason::Token),
        ),
    ];
    for (case, lifetime, token_lifetime, after, action) in cases {
        let lifecycle = leased(lifetime);
        assert_eq!(lifecycle.next_action(&context_at(start + seconds(after), Some(&token_lifetime))), action, "{case}");
    }
    let lifecycle = leased(Lifetime::new(TTL, true, start));
    assert_eq!(
        lifecycle.next_action(&context_at(start, None)),
        CacheAction::Refetch(RotationReason::Revoked),
        "the token is gone"
    );
    let unreferenced =
        LifecycleContext { is_referenced: false, ..context_at(start + seconds(600), Some(&token_lifetime)) };
    assert_eq!(
        lifecycle.next_action(&unreferenced),
        CacheAction::Reuse,
        "no volume references it, so it is not renewed"
    );
    let unreferenced =
        LifecycleContext { is_referenced: false, ..context_at(start + seconds(690), Some(&token_lifetime)) };
    assert_eq!(
        lifecycle.next_action(&unreferenced),
        CacheAction::Refetch(RotationReason::MaxTtl),
        "and ends when it ends"
    );
}

fn with_change(mut lifetime: Lifetime, change: impl FnOnce(&mut Lifetime)) -> Lifetime {
    change(&mut lifetime);
    lifetime
}

#[test]
fn plain_secret_is_refetched_after_refresh_interval() {
    let start = Instant::now();
    let lifecycle = |creates| Lifecycle::Plain { read_at: start, mutating: creates };
    let after = |s| context_at(start + seconds(s), None);
    for (mutating, context, action) in [
        (false, after(118), CacheAction::Reuse),
        (false, after(119), CacheAction::Refetch(RotationReason::RefreshDue)),
        (true, after(119), CacheAction::Refetch(RotationReason::RefreshDue)),
        (false, LifecycleContext { refresh: Refresh::Every(seconds(10)), ..after(9) }, CacheAction::Reuse),
        (
            false,
            LifecycleContext { refresh: Refresh::Every(seconds(10)), ..after(10) },
            CacheAction::Refetch(RotationReason::RefreshDue),
        ),
        (false, LifecycleContext { refresh: Refresh::Never, ..after(1_000_000) }, CacheAction::Reuse),
        // An undelivered secret is created again only when no mount is likely to collect it.
        (false, LifecycleContext { delivered: false, ..after(0) }, CacheAction::Refetch(RotationReason::RefreshDue)),
        (true, LifecycleContext { delivered: false, ..after(299) }, CacheAction::Reuse),
        (true, LifecycleContext { delivered: false, ..after(300) }, CacheAction::Refetch(RotationReason::RefreshDue)),
    ] {
        assert_eq!(lifecycle(mutating).next_action(&context), action, "{mutating} {context:?}");
    }
}

#[test]
fn static_credential_is_refetched_after_rotation() {
    let start = Instant::now();
    let result = read_result("", r#"{"password":"p","ttl":60,"rotation_period":3600}"#, false);
    let request = SecretRequest { path: "db/static-creds/app".into(), ..request(Method::Get) };
    let lifecycle = Lifecycle::from_result(&request, &result, start);
    for (after, refresh, action) in [
        (59, Refresh::Never, CacheAction::Reuse),
        (60, Refresh::Never, CacheAction::Refetch(RotationReason::RefreshDue)),
        (59, Refresh::Every(seconds(30)), CacheAction::Refetch(RotationReason::RefreshDue)),
    ] {
        let context = LifecycleContext { refresh, ..context_at(start + seconds(after), None) };
        assert_eq!(lifecycle.next_action(&context), action, "{after} {refresh:?}");
    }
    let later = read_result("", r#"{"password":"p","ttl":5,"rotation_period":3600}"#, false);
    let other = read_result("", r#"{"password":"q","ttl":60,"rotation_period":3600}"#, false);
    assert!(
        is_same_static_credential(&result.response, &later.response)
            && !is_same_static_credential(&result.response, &other.response)
    );
}

#[test]
fn refresh_interval_is_a_duration_or_never() {
    for (text, refresh) in [
        ("30s", Some(Refresh::Every(seconds(30)))),
        ("5m", Some(Refresh::Every(seconds(300)))),
        ("1h30m", Some(Refresh::Every(seconds(5400)))),
        ("never", Some(Refresh::Never)),
        ("0s", Some(Refresh::Every(Duration::ZERO))),
        ("", None),
        ("30", None),
        ("-5m", None),
        ("PT5M", None),
        ("soon", None),
        ("Never", None),
        ("999999h", None),
    ] {
        assert_eq!(Refresh::parse(text).ok(), refresh, "{text}");
    }
}

/// Fake Vault for one lease, with a max TTL that clients cannot see. A renewal is refused when no time is left.
struct FakeVault {
    ttl: Duration,
    max_ttl: Duration,
    created_at: Instant,
}

impl FakeVault {
    fn renew(&self, now: Instant) -> Option<Duration> {
        let remaining = (self.created_at + self.max_ttl).saturating_duration_since(now);
        (!remaining.is_zero()).then(|| self.ttl.min(remaining))
    }
}

proptest! {
    /// For TTLs of at least nine poll intervals and any max TTL, a poll replaces the credential before it expires. A
    /// credential that could be renewed is never replaced.
    #[test]
    fn polls_replace_capped_credential_before_expiry(
        gap in 1u64..200, gaps in 9u64..200, max_of_ttl in 10u64..80, offset in 0u64..1000, jitter in proptest::collection::vec(0u64..10, 64),
    ) {
        let ttl = seconds(gap * gaps);
        let max = ttl * u32::try_from(max_of_ttl).unwrap() / 10 ;
        let start = Instant::now();
        let token = Lifetime::new(Duration::ZERO, false, start);
        let server = FakeVault { ttl: ttl.min(max), max_ttl: max, created_at: start };
        let mut lifetime = Lifetime::new(server.ttl, true, start);
        let mut poll = start + seconds(gap) * u32::try_from(offset % 1000).unwrap() / 1000;
        let mut jitter = jitter.iter().cycle();
        let mut last = start;
        for _ in 0..20_000 {
            // Renewals run in the background until the poll.
            while lifetime.is_renewable() && lifetime.renew_at() <= poll {
                let now = lifetime.renew_at().max(last);
                match server.renew(now) {
                    Some(granted) => { lifetime.apply_renewal(granted, true, now); }
                    None => lifetime.disable_renewal(),
                }
                last = now;
            }
            let life = leased(lifetime.clone());
            prop_assert!(!life.is_expired(Some(&token), poll), "dead at {:?} of {max:?}", poll - start);
            let circumstances = LifecycleContext { poll_interval: Some(seconds(gap)), ..context_at(poll, Some(&token)) };
            if let CacheAction::Refetch(reason) = life.next_action(&circumstances) {
                prop_assert_eq!(reason, RotationReason::MaxTtl);
                let left = (start + max).saturating_duration_since(poll);
                prop_assert!(left <= ttl * 2 / 3 + seconds(1), "replaced {left:?} before its end");
                return Ok(());
            }
            poll += seconds(gap) * u32::try_from(90 + jitter.next().unwrap()).unwrap() / 100;
            last = last.max(start);
        }
        prop_assert!(false, "never replaced");
    }

    /// Failed renewals do not replace the lease before its expiry is near. Only a grant extends a fixed expiry.
    #[test]
    fn renewal_failures_do_not_replace_lease_before_near_expiry(failures in 1u32..200, ttl in 60u64..100_000, share in 0u64..79) {
        let start = Instant::now();
        let mut lifetime = Lifetime::new(seconds(ttl), true, start);
        for _ in 0..failures {
            lifetime.record_failure(start, false);
        }
        let token = Lifetime::new(Duration::ZERO, false, start);
        let now = start + seconds(ttl) * u32::try_from(share).unwrap() / 100;
        let circumstances = LifecycleContext { poll_interval: None, ..context_at(now, Some(&token)) };
        prop_assert!(!matches!(leased(lifetime).next_action(&circumstances), CacheAction::Refetch(_)));
    }

    /// Once a lease must be fetched again, it must be fetched at every later time too.
    #[test]
    fn refetch_decision_never_reverts_with_time(ttl in 1u64..10_000, renewable: bool, token_ttl in 0u64..10_000, a in 0u64..12_000, b in 0u64..12_000, gap in 0u64..500) {
        let start = Instant::now();
        let (lifetime, token) = (Lifetime::new(seconds(ttl), renewable, start), Lifetime::new(seconds(token_ttl), false, start));
        let step = |s| leased(lifetime.clone()).next_action(&LifecycleContext { poll_interval: Some(seconds(gap)), ..context_at(start + seconds(s), Some(&token)) });
        if matches!(step(a.min(b)), CacheAction::Refetch(_)) {
            prop_assert!(matches!(step(a.max(b)), CacheAction::Refetch(_)));
        }
    }
}
