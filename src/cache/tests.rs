use std::future::{Ready, ready};

use super::*;
use crate::{
    clock,
    vault::{
        client::{RenewalGrant, VaultToken},
        request::Method,
    },
};

fn request(path: &str) -> Arc<SecretRequest> {
    Arc::new(SecretRequest { method: Method::Get, path: path.into(), query: None, body: None })
}

fn session_token() -> Arc<SessionToken> {
    Arc::new(SessionToken::new(VaultToken::fake(Duration::from_secs(3600), true), clock::now()))
}

fn fetched(token: &Arc<SessionToken>, id: u32, data: &str, ttl: u32) -> Ready<Result<FetchedSecret, Error>> {
    let lease_id = if ttl > 0 { format!("database/creds/app/{id}") } else { String::new() };
    let body = format!(
        r#"{{"request_id":"{id}","lease_id":"{lease_id}","lease_duration":{ttl},"renewable":true,"data":{data}}}"#
    );
    let result = ReadResult { response: SecretResponse::parse(body.into_bytes()).unwrap(), mutating: ttl > 0 };
    ready(Ok(FetchedSecret { result, sent_at: clock::now(), token: Arc::clone(token) }))
}

fn lookup_options() -> LookupOptions {
    LookupOptions { now: clock::now(), poll_interval: None, refresh: Refresh::Every(Duration::from_secs(120)) }
}

impl CachedSecret {
    /// Returns the request ID from the response.
    fn request_id(&self) -> String {
        let json: serde_json::Value = serde_json::from_slice(self.response.as_json().expose()).unwrap();
        json["request_id"].as_str().unwrap().to_owned()
    }
}

/// Returns the secret that a mount would get, without delivering it to a pod.
async fn get_or_fetch(
    cache: &SecretCache,
    request: &Arc<SecretRequest>,
    fetch: Ready<Result<FetchedSecret, Error>>,
) -> Arc<CachedSecret> {
    match cache.lookup(request, &lookup_options()) {
        Lookup::Fresh(secret) => secret,
        Lookup::Due(due) => cache.fetch(request, &due, || fetch, |_, _| {}).await.unwrap().secret,
    }
}

#[tokio::test(start_paused = true)]
async fn credential_is_cached_until_near_expiry() {
    let (cache, request, token) = (SecretCache::default(), request("database/creds/app"), session_token());
    let undelivered = get_or_fetch(&cache, &request, fetched(&token, 1, r#"{"u":1}"#, 90)).await;
    let reused = get_or_fetch(&cache, &request, fetched(&token, 2, r#"{"u":2}"#, 90)).await;
    assert!(Arc::ptr_eq(&undelivered, &reused));
    assert!(cache.mark_delivered(&request, &reused) && !cache.mark_delivered(&request, &reused));
    let polled = get_or_fetch(&cache, &request, fetched(&token, 3, r#"{"u":3}"#, 90)).await;
    assert!(Arc::ptr_eq(&undelivered, &polled));
    // The secret has no references, so it is not renewed.
    tokio::time::advance(Duration::from_secs(73)).await;
    assert_eq!(get_or_fetch(&cache, &request, fetched(&token, 4, r#"{"u":4}"#, 90)).await.request_id(), "4");
}

#[tokio::test(start_paused = true)]
async fn credential_of_revoked_token_is_refetched() {
    let (cache, request, token) = (SecretCache::default(), request("database/creds/app"), session_token());
    get_or_fetch(&cache, &request, fetched(&token, 1, r#"{"u":1}"#, 90)).await;
    token.mark_revoked(clock::now());
    assert_eq!(get_or_fetch(&cache, &request, fetched(&token, 2, r#"{"u":2}"#, 90)).await.request_id(), "2");
}

#[tokio::test]
async fn refetch_of_equal_data_keeps_cached_response() {
    let (cache, request, token) = (SecretCache::default(), request("secret/data/x"), session_token());
    get_or_fetch(&cache, &request, fetched(&token, 1, r#"{"a":1}"#, 0)).await;
    let same = get_or_fetch(&cache, &request, fetched(&token, 2, r#"{"a":1}"#, 0)).await;
    assert_eq!(same.request_id(), "1");
    let changed = get_or_fetch(&cache, &request, fetched(&token, 3, r#"{"a":2}"#, 0)).await;
    assert_eq!(changed.request_id(), "3");
}

#[tokio::test]
async fn invalidate_refetches_plain_secret_but_not_credential() {
    let (cache, kv, db, token) =
        (SecretCache::default(), request("secret/data/x"), request("database/creds/app"), session_token());
    for (path, ttl) in [(&kv, 0), (&db, 90)] {
        let secret = get_or_fetch(&cache, path, fetched(&token, 1, r#"{"a":1}"#, ttl)).await;
        cache.mark_delivered(path, &secret);
        assert_eq!(cache.invalidate(path, &secret), ttl == 0);
    }
    // The pod keeps the stale secret if Vault is unavailable.
    assert!(matches!(cache.lookup(&kv, &lookup_options()), Lookup::Due(DueSecret { stale: Some(_), .. })));
    assert_eq!(get_or_fetch(&cache, &kv, fetched(&token, 2, r#"{"a":2}"#, 0)).await.request_id(), "2");
    assert_eq!(get_or_fetch(&cache, &db, fetched(&token, 2, r#"{"a":2}"#, 90)).await.request_id(), "1");
}

#[tokio::test(start_paused = true)]
async fn concurrent_lookup_reuses_completed_fetch() {
    let (cache, request, token) = (SecretCache::default(), request("database/creds/app"), session_token());
    let Lookup::Due(outdated) = cache.lookup(&request, &lookup_options()) else { panic!("nothing was read so far") };
    get_or_fetch(&cache, &request, fetched(&token, 1, r#"{"u":1}"#, 90)).await;
    let secret =
        cache.fetch(&request, &outdated, || fetched(&token, 2, r#"{"u":2}"#, 90), |_, _| {}).await.unwrap().secret;
    assert_eq!(secret.request_id(), "1");
}

#[tokio::test(start_paused = true)]
async fn only_secrets_referenced_by_a_volume_are_renewed() {
    let (cache, db, kv, token) =
        (SecretCache::default(), request("database/creds/app"), request("secret/data/x"), session_token());
    for (path, ttl) in [(&db, 90), (&kv, 0)] {
        let secret = get_or_fetch(&cache, path, fetched(&token, 1, r#"{"a":1}"#, ttl)).await;
        cache.mark_delivered(path, &secret);
    }
    let (a, b) = (Arc::from("/a"), Arc::from("/b"));
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!((cache.due_renewals(clock::now()).len(), cache.has_referenced_bound_secrets(&token)), (0, false));
    cache.set_references(&a, [&db, &kv], clock::now());
    cache.set_references(&b, [&db], clock::now());
    cache.set_references(&a, [&kv], clock::now());
    assert_eq!((cache.due_renewals(clock::now()).len(), cache.has_referenced_bound_secrets(&token)), (1, true));
    cache.set_references(&b, [], clock::now());
    assert_eq!((cache.due_renewals(clock::now()).len(), cache.has_referenced_bound_secrets(&token)), (0, false));
    // The lease remains valid in Vault, and is reported until it expires.
    assert!(cache.has_bound_secrets(&token, clock::now()));
    assert_eq!(cache.snapshots(true, clock::now()).len(), 2);
    tokio::time::advance(Duration::from_secs(30)).await;
    assert!(!cache.has_bound_secrets(&token, clock::now()));
    cache.set_references(&a, [&kv], clock::now());
    assert_eq!(cache.snapshots(true, clock::now()).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn expiry_notice_is_sent_before_and_at_expiry() {
    let (cache, request, token) = (SecretCache::default(), request("database/creds/app"), session_token());
    get_or_fetch(&cache, &request, fetched(&token, 1, r#"{"u":1}"#, 900)).await;
    cache.set_references(&Arc::from("/a"), [&request], clock::now());
    let renewal = cache.due_renewals(clock::now() + Duration::from_secs(600)).remove(0);
    let take_notices = |polled| {
        cache.take_expiry_notices(polled, true, clock::now()).into_iter().map(|w| w.is_expired).collect::<Vec<_>>()
    };
    assert!(take_notices(false).is_empty());
    // Max TTL reached: 400 seconds are left.
    renewal.apply_renewal(RenewalGrant { ttl: Duration::from_secs(400), renewable: true }, clock::now());
    assert!(take_notices(false).is_empty());
    let until_check = cache.next_wakeup(true, clock::now()).unwrap() - clock::now();
    assert_eq!(until_check, Duration::from_secs(100));
    tokio::time::advance(until_check).await;
    assert_eq!((take_notices(true), take_notices(false), take_notices(false)), (vec![], vec![false], vec![]));
    let until_expiry = cache.next_wakeup(true, clock::now()).unwrap() - clock::now();
    assert_eq!(until_expiry, Duration::from_secs(300));
    tokio::time::advance(until_expiry).await;
    assert_eq!((take_notices(true), take_notices(false), take_notices(false)), (vec![], vec![true], vec![]));
    assert_eq!(cache.next_wakeup(true, clock::now()), None);
}
