use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_secs(900);

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn read(method: Method) -> SecretRequest {
    SecretRequest { method, path: "x/y".into(), query: None, body: None }
}

fn reading(envelope: &str, data: &str, creates: bool) -> ReadResult {
    let body = format!(r#"{{{envelope}"data":{data}}}"#);
    ReadResult { response: SecretResponse::parse(body.into_bytes()).unwrap(), mutating: creates }
}

fn certificate(days: i64, form: impl Fn(&rcgen::Certificate) -> String) -> String {
    let mut params = rcgen::CertificateParams::new(["web.example".to_owned()]).unwrap();
    let end = Timestamp::now().as_second() + days * 86400;
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(end).unwrap());
    let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    serde_json::json!({ "certificate": form(&certificate) }).to_string()
}

#[test]
fn the_kind_is_read_off_the_answer() {
    let pem = certificate(30, rcgen::Certificate::pem);
    let der = certificate(30, |c| STANDARD.encode(c.der()));
    let lease = r#""lease_id":"a/b","lease_duration":900,"renewable":true,"#;
    for (method, envelope, data, kind) in [
        (Method::Get, lease, r#"{"username":"u"}"#, Kind::Leased),
        // PKI with generate_lease.
        (Method::Put, lease, &pem, Kind::Leased),
        // KV version 1 answers a duration and no lease.
        (Method::Get, r#""lease_id":"","lease_duration":2764800,"#, r#"{"a":1}"#, Kind::Plain),
        (Method::Put, "", &pem, Kind::Certificate),
        (Method::Post, "", &der, Kind::Certificate),
        // One that lies in KV, or the authority's own, may be replaced at any time.
        (Method::Get, "", &pem, Kind::Plain),
        (Method::Put, "", r#"{"certificate":"none"}"#, Kind::Plain),
        (Method::Get, "", r#"{"password":"p","ttl":60,"rotation_period":3600,"username":"u"}"#, Kind::Static),
        (Method::Get, "", r#"{"password":"p","ttl":60,"rotation_schedule":"0 * * * *"}"#, Kind::Static),
        (Method::Get, "", r#"{"ttl":60}"#, Kind::Plain),
        (Method::Get, "", r#"{"ttl":"1h","rotation_period":60}"#, Kind::Plain),
        (Method::Put, "", r#"{"signature":"s"}"#, Kind::Plain),
    ] {
        let path = if data.contains("rotation") { "db/static-creds/app" } else { "x/y" };
        let asked = SecretRequest { path: path.into(), ..read(method) };
        let life = Life::of(&asked, &reading(envelope, data, true), Instant::now());
        assert_eq!(life.kind(), kind, "{method} {envelope} {data}");
    }
    // Somebody's secret may have such keys, too.
    let look_alike = reading("", r#"{"ttl":0,"rotation_period":3600}"#, false);
    assert_eq!(Life::of(&read(Method::Get), &look_alike, Instant::now()).kind(), Kind::Plain);
}

#[test]
fn a_certificate_is_used_for_two_thirds_of_its_life() {
    let (now, day) = (Instant::now(), seconds(86400));
    let life = Life::of(&read(Method::Put), &reading("", &certificate(30, rcgen::Certificate::pem), true), now);
    for (after, step) in [(day, Step::Reuse), (day * 19, Step::Reuse), (day * 21, Step::Reread(Reason::Age))] {
        assert_eq!(life.decide(&at(now + after, None)), step, "{after:?}");
    }
    assert!(!life.is_over(None, now + day * 29) && life.is_over(None, now + day * 31));
}

fn at(now: Instant, token: Option<&Term>) -> Circumstances<'_> {
    let refresh = Refresh::Every(seconds(120));
    Circumstances { now, token, gap: Some(seconds(70)), refresh, delivered: true, named: true }
}

fn leased(term: Term) -> Life {
    Life::Leased { lease_id: "a/b".into(), term: Box::new(term) }
}

/// A lease of 15 minutes and polls every 70 seconds: what is done at which second of its life.
#[test]
fn leases_are_decided_by_this_table() {
    let start = Instant::now();
    let short = |term: &mut Term| {
        term.renewed(seconds(300), true, start);
    };
    let token = Term::new(seconds(3600), true, start);
    let cases: [(&str, Term, Term, u64, Step); 14] = [
        ("fresh", Term::new(TTL, true, start), token.clone(), 0, Step::Reuse),
        ("before two thirds", Term::new(TTL, true, start), token.clone(), 540, Step::Reuse),
        ("at two thirds", Term::new(TTL, true, start), token.clone(), 600, Step::Renew),
        ("near its end, and renewable", Term::new(TTL, true, start), token.clone(), 890, Step::Renew),
        ("over", Term::new(TTL, true, start), token.clone(), 900, Step::Reread(Reason::Gone)),
        ("not renewable, three polls before", Term::new(TTL, false, start), token.clone(), 689, Step::Reuse),
        ("not renewable, near", Term::new(TTL, false, start), token.clone(), 690, Step::Reread(Reason::Maximum)),
        ("at its maximum", with(Term::new(TTL, true, start), short), token.clone(), 89, Step::Reuse),
        (
            "at its maximum, near",
            with(Term::new(TTL, true, start), short),
            token.clone(),
            90,
            Step::Reread(Reason::Maximum),
        ),
        (
            "renewal failed",
            with(Term::new(TTL, true, start), |t| t.failed(start, false)),
            token.clone(),
            600,
            Step::Renew,
        ),
        (
            "renewal failed, near",
            with(Term::new(TTL, true, start), |t| t.failed(start, false)),
            token.clone(),
            795,
            Step::Reread(Reason::Maximum),
        ),
        ("token renews", Term::new(TTL, true, start), Term::new(TTL, true, start), 500, Step::Reuse),
        ("token ends first", Term::new(TTL, true, start), Term::new(seconds(600), false, start), 389, Step::Reuse),
        (
            "token ends first, near",
            Term::new(TTL, true, start),
            Term::new(seconds(600), false, start),
            390,
            Step::Reread(Reason::Token),
        ),
    ];
    for (what, term, token, after, step) in cases {
        let life = leased(term);
        assert_eq!(life.decide(&at(start + seconds(after), Some(&token))), step, "{what}");
    }
    let life = leased(Term::new(TTL, true, start));
    assert_eq!(life.decide(&at(start, None)), Step::Reread(Reason::Gone), "the token is gone");
    let unnamed = Circumstances { named: false, ..at(start + seconds(600), Some(&token)) };
    assert_eq!(life.decide(&unnamed), Step::Reuse, "nobody names it, so it is not renewed");
    let unnamed = Circumstances { named: false, ..at(start + seconds(690), Some(&token)) };
    assert_eq!(life.decide(&unnamed), Step::Reread(Reason::Maximum), "and ends when it ends");
}

fn with(mut term: Term, act: impl FnOnce(&mut Term)) -> Term {
    act(&mut term);
    term
}

#[test]
fn plain_secrets_are_read_again_when_they_are_old() {
    let start = Instant::now();
    let life = |creates| Life::Plain { read: start, creates };
    let after = |s| at(start + seconds(s), None);
    for (creates, circumstances, step) in [
        (false, after(118), Step::Reuse),
        (false, after(119), Step::Reread(Reason::Age)),
        (true, after(119), Step::Reread(Reason::Age)),
        (false, Circumstances { refresh: Refresh::Every(seconds(10)), ..after(9) }, Step::Reuse),
        (false, Circumstances { refresh: Refresh::Every(seconds(10)), ..after(10) }, Step::Reread(Reason::Age)),
        (false, Circumstances { refresh: Refresh::Never, ..after(1_000_000) }, Step::Reuse),
        // What never reached its pod: made anew only when nobody seems to come for it.
        (false, Circumstances { delivered: false, ..after(0) }, Step::Reread(Reason::Age)),
        (true, Circumstances { delivered: false, ..after(299) }, Step::Reuse),
        (true, Circumstances { delivered: false, ..after(300) }, Step::Reread(Reason::Age)),
    ] {
        assert_eq!(life(creates).decide(&circumstances), step, "{creates} {circumstances:?}");
    }
}

#[test]
fn static_credentials_are_read_again_right_after_their_rotation() {
    let start = Instant::now();
    let answer = reading("", r#"{"password":"p","ttl":60,"rotation_period":3600}"#, false);
    let asked = SecretRequest { path: "db/static-creds/app".into(), ..read(Method::Get) };
    let life = Life::of(&asked, &answer, start);
    for (after, refresh, step) in [
        (59, Refresh::Never, Step::Reuse),
        (60, Refresh::Never, Step::Reread(Reason::Age)),
        (59, Refresh::Every(seconds(30)), Step::Reread(Reason::Age)),
    ] {
        let circumstances = Circumstances { refresh, ..at(start + seconds(after), None) };
        assert_eq!(life.decide(&circumstances), step, "{after} {refresh:?}");
    }
    let later = reading("", r#"{"password":"p","ttl":5,"rotation_period":3600}"#, false);
    let other = reading("", r#"{"password":"q","ttl":60,"rotation_period":3600}"#, false);
    assert!(same_static(&answer.response, &later.response) && !same_static(&answer.response, &other.response));
}

#[test]
fn refresh_intervals_are_times_or_never() {
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

/// Vault, as it deals with one lease: a maximum nobody is told of, and sometimes no answer.
struct Server {
    ttl: Duration,
    max: Duration,
    created: Instant,
}

impl Server {
    fn renew(&self, now: Instant) -> Option<Duration> {
        let left = (self.created + self.max).saturating_duration_since(now);
        (!left.is_zero()).then(|| self.ttl.min(left))
    }
}

proptest! {
    /// For ttls of nine poll gaps and more, whatever the maximum is, a poll comes to replace a credential before it is dead,
    /// and none is replaced that could have been renewed.
    #[test]
    fn no_poll_finds_a_dead_credential(
        gap in 1u64..200, gaps in 9u64..200, max_of_ttl in 10u64..80, offset in 0u64..1000, jitter in proptest::collection::vec(0u64..10, 64),
    ) {
        let ttl = seconds(gap * gaps);
        let max = ttl * u32::try_from(max_of_ttl).unwrap() / 10 ;
        let start = Instant::now();
        let token = Term::new(Duration::ZERO, false, start);
        let server = Server { ttl: ttl.min(max), max, created: start };
        let mut term = Term::new(server.ttl, true, start);
        let mut poll = start + seconds(gap) * u32::try_from(offset % 1000).unwrap() / 1000;
        let mut jitter = jitter.iter().cycle();
        let mut last = start;
        for _ in 0..20_000 {
            // The background runs until the poll.
            while term.is_renewable() && term.renew_at() <= poll {
                let now = term.renew_at().max(last);
                match server.renew(now) {
                    Some(granted) => { term.renewed(granted, true, now); }
                    None => term.cannot_be_renewed(),
                }
                last = now;
            }
            let life = leased(term.clone());
            prop_assert!(!life.is_over(Some(&token), poll), "dead at {:?} of {max:?}", poll - start);
            let circumstances = Circumstances { gap: Some(seconds(gap)), ..at(poll, Some(&token)) };
            if let Step::Reread(reason) = life.decide(&circumstances) {
                prop_assert_eq!(reason, Reason::Maximum);
                let left = (start + max).saturating_duration_since(poll);
                prop_assert!(left <= ttl * 2 / 3 + seconds(1), "replaced {left:?} before its end");
                return Ok(());
            }
            poll += seconds(gap) * u32::try_from(90 + jitter.next().unwrap()).unwrap() / 100;
            last = last.max(start);
        }
        prop_assert!(false, "never replaced");
    }

    /// Renewals that fail make nothing new before the end is near, and a forced end is never put off by anything but a grant.
    #[test]
    fn failures_replace_nothing_before_the_end_is_near(failures in 1u32..200, ttl in 60u64..100_000, share in 0u64..79) {
        let start = Instant::now();
        let mut term = Term::new(seconds(ttl), true, start);
        for _ in 0..failures {
            term.failed(start, false);
        }
        let token = Term::new(Duration::ZERO, false, start);
        let now = start + seconds(ttl) * u32::try_from(share).unwrap() / 100;
        let circumstances = Circumstances { gap: None, ..at(now, Some(&token)) };
        prop_assert!(!matches!(leased(term).decide(&circumstances), Step::Reread(_)));
    }

    /// Time that passes never makes a lease better: once it must be read anew, it must at every later moment.
    #[test]
    fn later_is_never_better(ttl in 1u64..10_000, renewable: bool, token_ttl in 0u64..10_000, a in 0u64..12_000, b in 0u64..12_000, gap in 0u64..500) {
        let start = Instant::now();
        let (term, token) = (Term::new(seconds(ttl), renewable, start), Term::new(seconds(token_ttl), false, start));
        let step = |s| leased(term.clone()).decide(&Circumstances { gap: Some(seconds(gap)), ..at(start + seconds(s), Some(&token)) });
        if matches!(step(a.min(b)), Step::Reread(_)) {
            prop_assert!(matches!(step(a.max(b)), Step::Reread(_)));
        }
    }
}
