"""Limits of a policy file on classes, and on pods that override a class with volumeAttributes."""

import pytest

from docs import Reader
from driver import on
from vault import VAULT

OBJECTS = "- {objectName: a, secretPath: secret/data/web/policy, secretKey: value}"
BEGIN = "apiVersion: vaultmount/v1\nkind: Policy\n"
ENDPOINT = f"endpoints: {{prod: {{address: \"{VAULT}\", authMount: kubernetes}}}}\n"


class PolicyOverlay:
    """The provider with a policy file, deployed with the steps of docs/policy.md."""

    def __init__(self, node, vault):
        self.reader = Reader(node, vault)
        self.reader.follow("install.md", "Install the manifests", only="nothing")

    def apply(self, page: str, policy: str) -> None:
        folder = self.reader.folder / "policy"
        folder.mkdir(exist_ok=True)
        (folder / "policy.yaml").write_text(policy)
        self.reader.follow(page, "Deploy a policy", only="kubectl")


@pytest.fixture
def policy_overlay(node, vault, provider):
    """The provider with a policy. The policy is removed after the scenario."""
    policy_overlay = PolicyOverlay(node, vault)
    policy_overlay.apply("policy.md", f"{BEGIN}{ENDPOINT}rules: [{{namespaces: [shop], endpoints: [default, prod]}}]\n")
    provider.settled()
    yield policy_overlay
    provider.install()


@on("off", "1.6.0")
def test_what_is_in_force_is_judged_wherever_it_was_said(shop, vault, provider, policy_overlay):
    vault.put("web/policy", value="x")
    shop.add_class("plain", OBJECTS)
    shop.add_class("named", OBJECTS, vaultEndpoint="prod")
    shop.add_class("mount", OBJECTS, vaultKubernetesMountPath="theirs")
    assert shop.run_pod("plain", "plain").file("/plain/a") == ("644", "x")
    assert shop.run_pod("named", "named").file("/named/a") == ("644", "x")
    # The forbidden value is in the class, or in a pod that overrides a permitted class.
    event = shop.add_pod("mount", "mount").wait_event("[VM0015]")
    print(f"\n{event}")
    assert 'the auth mount "theirs"' in event and "authMounts of rules[0] in the policy file /policy/policy.yaml" in event
    for name, parameter, value, cause in [
        ("address", "vaultAddress", "https://vault.example", "[VM0013]"),
        ("namespace", "vaultNamespace", "other", "[VM0015]"),
        ("audience", "audience", "https://kubernetes.default.svc", "[VM0015]"),
        ("skip", "vaultSkipTLSVerify", "true", "[VM0014]"),
        ("file", "vaultCACertPath", "/etc/ssl/ca.pem", "[VM0015]"),
        ("endpoint", "vaultEndpoint", "lab", "[VM0016]"),
    ]:
        pod = shop.add_pod(name, "plain", attributes={parameter: value})
        print(pod.wait_event(cause))
    assert provider.metric("vaultmount_policy_denials_total") >= 7
    # A new policy takes effect without a restart.
    (before,) = provider.pods()
    policy_overlay.apply("policy.md", f"{BEGIN}{ENDPOINT}rules: [{{namespaces: [shop], endpoints: [prod]}}]\n")
    shop.wait("the new policy", lambda: "policy file applied" in provider.log(), 180)
    shop.add_pod("late", "plain").wait_event("[VM0015]", "endpoint default")
    assert shop.run_pod("later", "named").file("/named/a") == ("644", "x")
    (after,) = provider.pods()
    assert before["metadata"]["uid"] == after["metadata"]["uid"] and provider.restarts() == 0
