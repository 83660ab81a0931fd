use std::future::{Ready, ready};

use super::*;
use crate::{
    clock,
    vault::{
        client::{RenewalGrant, VaultToken},
        wire::Method,
    },
};

fn read(path: &str) -> Arc<SecretRequest> {
    Arc::new(SecretRequest { method: Method::Get, path: path.into(), query: None, body: None })
}

fn hold() -> Arc<Hold> {
    Arc::new(Hold::new(VaultToken::fake(Duration::from_secs(3600), true), clock::now()))
}

fn answer(hold: &Arc<Hold>, id: u32, data: &str, ttl: u32) -> Ready<Result<Fetched, Error>> {
    let lease = if ttl > 0 { format!("database/creds/app/{id}") } else { String::new() };
    let body = format!(
        r#"{{"request_id":"{id}","lease_id":"{lease}","lease_duration":{ttl},"renewable":true,"data":{data}}}"#
    );
    let reading = ReadResult { response: SecretResponse::parse(body.into_bytes()).unwrap(), mutating: ttl > 0 };
    ready(Ok(Fetched { reading, sent: clock::now(), hold: Arc::clone(hold) }))
}

fn look() -> Look {
    Look { now: clock::now(), gap: None, refresh: Refresh::Every(Duration::from_secs(120)) }
}

impl Lease {
    /// The server's id of the request.
    fn id(&self) -> String {
        let whole: serde_json::Value = serde_json::from_slice(self.answer.as_json().expose()).unwrap();
        whole["request_id"].as_str().unwrap().to_owned()
    }
}

/// What a mount gets, without a pod to deliver it to.
async fn get(leases: &Leases, path: &Arc<SecretRequest>, fetch: Ready<Result<Fetched, Error>>) -> Arc<Lease> {
    match leases.look(path, &look()) {
        Found::Good(lease) => lease,
        Found::Due(due) => leases.read(path, &due, || fetch, |_, _| {}).await.unwrap().lease,
    }
}

#[tokio::test(start_paused = true)]
async fn a_credential_is_kept_while_it_is_good() {
    let (leases, path, hold) = (Leases::default(), read("database/creds/app"), hold());
    let lost = get(&leases, &path, answer(&hold, 1, r#"{"u":1}"#, 90)).await;
    let again = get(&leases, &path, answer(&hold, 2, r#"{"u":2}"#, 90)).await;
    assert!(Arc::ptr_eq(&lost, &again));
    assert!(leases.delivered(&path, &again) && !leases.delivered(&path, &again));
    let polled = get(&leases, &path, answer(&hold, 3, r#"{"u":3}"#, 90)).await;
    assert!(Arc::ptr_eq(&lost, &polled));
    // Nobody names it, so it is not renewed.
    tokio::time::advance(Duration::from_secs(73)).await;
    assert_eq!(get(&leases, &path, answer(&hold, 4, r#"{"u":4}"#, 90)).await.id(), "4");
}

#[tokio::test(start_paused = true)]
async fn a_credential_ends_with_its_token() {
    let (leases, path, hold) = (Leases::default(), read("database/creds/app"), hold());
    get(&leases, &path, answer(&hold, 1, r#"{"u":1}"#, 90)).await;
    hold.lost(clock::now());
    assert_eq!(get(&leases, &path, answer(&hold, 2, r#"{"u":2}"#, 90)).await.id(), "2");
}

#[tokio::test]
async fn equal_data_keeps_the_first_envelope() {
    let (leases, path, hold) = (Leases::default(), read("secret/data/x"), hold());
    get(&leases, &path, answer(&hold, 1, r#"{"a":1}"#, 0)).await;
    let same = get(&leases, &path, answer(&hold, 2, r#"{"a":1}"#, 0)).await;
    assert_eq!(same.id(), "1");
    let changed = get(&leases, &path, answer(&hold, 3, r#"{"a":2}"#, 0)).await;
    assert_eq!(changed.id(), "3");
}

#[tokio::test]
async fn a_plain_secret_in_doubt_is_read_again_and_a_credential_is_not() {
    let (leases, kv, db, hold) = (Leases::default(), read("secret/data/x"), read("database/creds/app"), hold());
    for (path, ttl) in [(&kv, 0), (&db, 90)] {
        let lease = get(&leases, path, answer(&hold, 1, r#"{"a":1}"#, ttl)).await;
        leases.delivered(path, &lease);
        assert_eq!(leases.doubt(path, &lease), ttl == 0);
    }
    // The pod has it all the same, when Vault cannot be asked.
    assert!(matches!(leases.look(&kv, &look()), Found::Due(Due { kept: Some(_), .. })));
    assert_eq!(get(&leases, &kv, answer(&hold, 2, r#"{"a":2}"#, 0)).await.id(), "2");
    assert_eq!(get(&leases, &db, answer(&hold, 2, r#"{"a":2}"#, 90)).await.id(), "1");
}

#[tokio::test(start_paused = true)]
async fn whoever_looked_before_anothers_reading_makes_no_second() {
    let (leases, path, hold) = (Leases::default(), read("database/creds/app"), hold());
    let Found::Due(late) = leases.look(&path, &look()) else { panic!("nothing was read so far") };
    get(&leases, &path, answer(&hold, 1, r#"{"u":1}"#, 90)).await;
    let lease = leases.read(&path, &late, || answer(&hold, 2, r#"{"u":2}"#, 90), |_, _| {}).await.unwrap().lease;
    assert_eq!(lease.id(), "1");
}

#[tokio::test(start_paused = true)]
async fn only_what_a_volume_names_is_renewed() {
    let (leases, db, kv, hold) = (Leases::default(), read("database/creds/app"), read("secret/data/x"), hold());
    for (path, ttl) in [(&db, 90), (&kv, 0)] {
        let lease = get(&leases, path, answer(&hold, 1, r#"{"a":1}"#, ttl)).await;
        leases.delivered(path, &lease);
    }
    let (a, b) = (Arc::from("/a"), Arc::from("/b"));
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!((leases.to_renew(clock::now()).len(), leases.named_hang_on(&hold)), (0, false));
    leases.name(&a, [&db, &kv], clock::now());
    leases.name(&b, [&db], clock::now());
    leases.name(&a, [&kv], clock::now());
    assert_eq!((leases.to_renew(clock::now()).len(), leases.named_hang_on(&hold)), (1, true));
    leases.name(&b, [], clock::now());
    assert_eq!((leases.to_renew(clock::now()).len(), leases.named_hang_on(&hold)), (0, false));
    // It lives on at Vault, to an end of its own, and is told of until it is over.
    assert!(leases.hang_on(&hold, clock::now()));
    assert_eq!(leases.tell(true, clock::now()).len(), 2);
    tokio::time::advance(Duration::from_secs(30)).await;
    assert!(!leases.hang_on(&hold, clock::now()));
    leases.name(&a, [&kv], clock::now());
    assert_eq!(leases.tell(true, clock::now()).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_end_is_told_before_it_comes_and_when_it_has() {
    let (leases, path, hold) = (Leases::default(), read("database/creds/app"), hold());
    get(&leases, &path, answer(&hold, 1, r#"{"u":1}"#, 900)).await;
    leases.name(&Arc::from("/a"), [&path], clock::now());
    let renewal = leases.to_renew(clock::now() + Duration::from_secs(600)).remove(0);
    let told = |polled| leases.warnings(polled, true, clock::now()).into_iter().map(|w| w.over).collect::<Vec<_>>();
    assert!(told(false).is_empty());
    // The maximum: 400 seconds are left.
    renewal.renewed(RenewalGrant { ttl: Duration::from_secs(400), renewable: true }, clock::now());
    assert!(told(false).is_empty());
    let look_at = leases.next(true, clock::now()).unwrap() - clock::now();
    assert_eq!(look_at, Duration::from_secs(100));
    tokio::time::advance(look_at).await;
    assert_eq!((told(true), told(false), told(false)), (vec![], vec![false], vec![]));
    let end = leases.next(true, clock::now()).unwrap() - clock::now();
    assert_eq!(end, Duration::from_secs(300));
    tokio::time::advance(end).await;
    assert_eq!((told(true), told(false), told(false)), (vec![], vec![true], vec![]));
    assert_eq!(leases.next(true, clock::now()), None);
}
