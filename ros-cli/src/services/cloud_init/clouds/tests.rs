//! Each cloud against a small HTTP server on loopback, with answers shaped as that cloud documents them.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use serde_json::{Value, json};

use super::*;

const USER_DATA: &str = "#cloud-config\nhostname: given\n";

/// Instead of a header: the other side must have a port that only root can take.
const LOW_PORT: &str = "low-port";

/// What is served: method and path, a header that must be there, and the answer.
type Page = (&'static str, &'static str, String);

/// Serves `pages`; anything else is a 404, a missing header a 403. Requests are noted with their bodies.
async fn serve(pages: Vec<Page>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    tokio::spawn(async move {
        loop {
            let (mut peer, from) = listener.accept().await.unwrap();
            let low = if from.port() < 1024 { LOW_PORT } else { "" };
            let request = read(&mut peer).await + low;
            noted.lock().unwrap().push(request.clone());
            let asked =
                request.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
            let page = pages.iter().find(|(page, _, _)| *page == asked);
            let (status, body) = match page {
                None => (404, String::new()),
                Some((_, header, _))
                    if !request.to_lowercase().contains(&header.to_lowercase()) =>
                {
                    (403, String::new())
                }
                Some((_, _, body)) => (200, body.clone()),
            };
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status} x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            let _ = peer.write_all(answer.as_bytes()).await;
        }
    });
    (base, seen)
}

/// Head and body of one request.
async fn read(peer: &mut tokio::net::TcpStream) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = peer.read(&mut buffer).await.unwrap_or(0);
        text.extend_from_slice(&buffer[..count]);
        let shown = String::from_utf8_lossy(&text).into_owned();
        let length = shown
            .to_lowercase()
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let whole =
            shown.split_once("\r\n\r\n").is_some_and(|(_, body)| body.len() >= length.unwrap_or(0));
        if whole || count == 0 {
            return shown;
        }
    }
}

fn meta(data: &InstanceData) -> Value {
    serde_json::from_str(&data.meta_data).unwrap()
}

fn page(path: &'static str, body: impl Into<String>) -> Page {
    (path, "", body.into())
}

#[tokio::test]
async fn ec2_wants_a_token_first() {
    let token = "X-aws-ec2-metadata-token: AQAE";
    let with = |path: &'static str, body: &str| -> Page { (path, token, body.to_owned()) };
    let (base, seen) = serve(vec![
        ("PUT /latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 300", "AQAE".into()),
        with("GET /latest/meta-data/instance-id", "i-1234567890abcdef0"),
        with("GET /latest/meta-data/local-hostname", "ip-10-0-0-5.ec2.internal"),
        with("GET /latest/meta-data/hostname", "ip-10-0-0-5.ec2.internal"),
        with("GET /latest/meta-data/public-keys/", "0=my-public-key"),
        with("GET /latest/meta-data/public-keys/0/openssh-key", "ssh-rsa AAAA my-public-key\n"),
        with("GET /latest/meta-data/placement/availability-zone", "eu-west-1a"),
        with("GET /latest/meta-data/placement/region", "eu-west-1"),
        with("GET /latest/user-data", USER_DATA),
    ])
    .await;
    let data = Cloud::Ec2.fetch_from(&base).await.unwrap();
    assert_eq!(
        (data.instance_id.as_str(), data.datasource.as_str()),
        ("i-1234567890abcdef0", "ec2")
    );
    assert_eq!(meta(&data)["public-keys"], json!(["ssh-rsa AAAA my-public-key"]));
    assert_eq!(data.context()["v1"]["region"], "eu-west-1");
    assert_eq!(data.user_data, USER_DATA.as_bytes());
    assert!(seen.lock().unwrap()[0].starts_with("PUT /latest/api/token"));
}

/// Shapes of Alibaba's documentation: folders of keys by name, the zone in a place of its own, tokens in hardened mode.
#[tokio::test]
async fn aliyun_has_named_keys_and_tokens_of_its_own() {
    let token = "X-aliyun-ecs-metadata-token: ALI";
    let with = |path: &'static str, body: &str| -> Page { (path, token, body.to_owned()) };
    let (base, _) = serve(vec![
        ("PUT /latest/api/token", "X-aliyun-ecs-metadata-token-ttl-seconds: 300", "ALI".into()),
        with("GET /latest/meta-data/instance-id", "i-bp13znx0m0me8cquu****"),
        with("GET /latest/meta-data/hostname", "iZbp13znx0m0me8cquu****Z"),
        with("GET /latest/meta-data/public-keys/", "0/"),
        with("GET /latest/meta-data/public-keys/0/openssh-key", "ssh-rsa ALI key"),
        with("GET /latest/meta-data/zone-id", "cn-hangzhou-i"),
        with("GET /latest/meta-data/region-id", "cn-hangzhou"),
        with("GET /latest/user-data", USER_DATA),
    ])
    .await;
    let data = Cloud::Aliyun.fetch_from(&base).await.unwrap();
    assert_eq!(data.datasource, "aliyun");
    assert_eq!(meta(&data)["public-keys"], json!(["ssh-rsa ALI key"]));
    assert_eq!(meta(&data)["availability-zone"], "cn-hangzhou-i");
    assert_eq!(meta(&data)["region"], "cn-hangzhou");
    assert_eq!(meta(&data)["local-hostname"], "iZbp13znx0m0me8cquu****Z");
    assert_eq!(data.user_data, USER_DATA.as_bytes());
}

/// A virtual router's service (CloudStack, Exoscale): keys as they are, other names.
#[tokio::test]
async fn cloudstack_and_exoscale() {
    let (base, _) = serve(vec![
        page("GET /latest/meta-data/instance-id", "4ddf9d05-ddf6-4b4a-8e2f-1ae2f3ba8ffb\n"),
        page("GET /latest/meta-data/local-hostname", "vm-1\n"),
        page("GET /latest/meta-data/availability-zone", "ch-gva-2\n"),
        page("GET /latest/meta-data/public-keys/", "ssh-rsa AAAA one\nssh-rsa BBBB two\n"),
        page("GET /latest/user-data", USER_DATA),
    ])
    .await;
    for (cloud, name) in [(Cloud::ApacheCloudStack, "cloudstack"), (Cloud::Exoscale, "exoscale")] {
        let data = cloud.fetch_from(&base).await.unwrap();
        assert_eq!(data.datasource, name);
        assert_eq!(data.instance_id, "4ddf9d05-ddf6-4b4a-8e2f-1ae2f3ba8ffb");
        assert_eq!(meta(&data)["public-keys"], json!(["ssh-rsa AAAA one", "ssh-rsa BBBB two"]));
        assert_eq!(meta(&data)["availability-zone"], "ch-gva-2");
        assert_eq!(data.user_data, USER_DATA.as_bytes());
    }
    let dir = tempfile::tempdir().unwrap();
    let lease = dir.path().join("dhcp-server");
    assert!(virtual_router(&lease).is_err(), "nobody gave an address");
    std::fs::write(&lease, "10.1.1.1\n").unwrap();
    assert_eq!(virtual_router(&lease).unwrap(), "http://10.1.1.1");
}

/// User data is answered to a port below 1024 only.
#[tokio::test]
async fn scaleway_answers_user_data_to_root_only() {
    let conf = json!({
        "id": "11111111-1111-4111-8111-111111111111", "hostname": "scw-wonderful-name", "tags": ["web", "AUTHORIZED_KEY=ssh-rsa_TAG_me"],
        "ssh_public_keys": [{"key": "ssh-ed25519 AAAA me", "fingerprint": "256 MD5:aa me (ssh-ed25519)"}],
        "location": {"zone_id": "fr-par-1", "platform_id": "31"}, "private_ip": null,
        "public_ips": [{"address": "51.15.0.2", "dynamic": false, "family": "inet", "netmask": "32", "gateway": "62.210.0.1"}],
    });
    let (base, seen) = serve(vec![
        page("GET /conf?format=json", conf.to_string()),
        ("GET /user_data/cloud-init", LOW_PORT, USER_DATA.into()),
    ])
    .await;
    let fetched = Cloud::Scaleway.fetch_from(&base).await;
    if !rustix::process::geteuid().is_root() {
        assert!(format!("{:#}", fetched.unwrap_err()).contains("connect from port"));
        return;
    }
    let data = fetched.unwrap();
    assert_eq!(data.instance_id, "11111111-1111-4111-8111-111111111111");
    assert_eq!(meta(&data)["public-keys"], json!(["ssh-ed25519 AAAA me", "ssh-rsa TAG me"]));
    assert_eq!(meta(&data)["region"], "fr-par");
    assert_eq!(data.user_data, USER_DATA.as_bytes());
    assert_eq!(data.vendor_data, b"", "there is none: a 404");
    assert!(seen.lock().unwrap().iter().any(|request| request.contains("/vendor_data/cloud-init")));
}

#[tokio::test]
async fn a_service_without_tokens_is_asked_without() {
    let (base, _) = serve(vec![
        page("GET /latest/meta-data/instance-id", "i-ali"),
        page("GET /latest/meta-data/public-keys/", "ssh-ed25519 AAAA me"),
    ])
    .await;
    for cloud in [Cloud::Ec2, Cloud::Aliyun, Cloud::Exoscale] {
        let data = cloud.fetch_from(&base).await.unwrap();
        assert_eq!((data.instance_id.as_str(), data.user_data.len()), ("i-ali", 0));
        assert_eq!(meta(&data)["public-keys"], json!(["ssh-ed25519 AAAA me"]));
    }
}

#[tokio::test]
async fn gce_has_keys_of_the_machine_and_of_the_project() {
    let answer = json!({
        "instance": {
            "id": 8087716956832600000_u64, "hostname": "vm.c.project.internal", "zone": "projects/123/zones/us-central1-a",
            "attributes": {"ssh-keys": "ann:ssh-rsa A ann", "user-data": USER_DATA},
        },
        "project": {"attributes": {"ssh-keys": "bob:ssh-rsa B bob\n"}, "projectId": "p"},
    });
    let (base, _) = serve(vec![(
        "GET /computeMetadata/v1/?recursive=true",
        "Metadata-Flavor: Google",
        answer.to_string(),
    )])
    .await;
    let data = Cloud::Gce.fetch_from(&base).await.unwrap();
    assert_eq!(data.instance_id, "8087716956832600000");
    assert_eq!(meta(&data)["public-keys"], json!(["ssh-rsa A ann", "ssh-rsa B bob"]));
    assert_eq!(
        (&meta(&data)["region"], &meta(&data)["availability-zone"]),
        (&json!("us-central1"), &json!("us-central1-a"))
    );
    assert_eq!(data.user_data, USER_DATA.as_bytes());
}

#[tokio::test]
async fn azure_has_user_data_in_base64_and_is_told_ready() {
    let coded = base64::engine::general_purpose::STANDARD.encode(USER_DATA);
    let answer = json!({"compute": {
        "vmId": "02aab8a4-74ef-476e-8182-f6d2ba4166a6", "name": "vm", "location": "westeurope", "zone": "1",
        "osProfile": {"computerName": "examplevm"}, "publicKeys": [{"keyData": "ssh-rsa 0", "path": "/home/u/.ssh/authorized_keys"}],
        "userData": coded,
    }});
    let goal = "<GoalState><Incarnation>1</Incarnation><Container><ContainerId>c-1</ContainerId><RoleInstanceList>\
                <RoleInstance><InstanceId>r-1</InstanceId></RoleInstance></RoleInstanceList></Container></GoalState>";
    let (base, seen) = serve(vec![
        ("GET /metadata/instance?api-version=2021-08-01", "Metadata: true", answer.to_string()),
        ("GET /machine/?comp=goalstate", "x-ms-version: 2012-11-30", goal.into()),
        ("POST /machine?comp=health", "Content-Type: text/xml; charset=utf-8", String::new()),
    ])
    .await;
    let data = Cloud::Azure.fetch_from(&base).await.unwrap();
    assert_eq!(data.instance_id, "02aab8a4-74ef-476e-8182-f6d2ba4166a6");
    assert_eq!(
        (&meta(&data)["local-hostname"], &meta(&data)["public-keys"]),
        (&json!("examplevm"), &json!(["ssh-rsa 0"]))
    );
    assert_eq!(data.user_data, USER_DATA.as_bytes());
    azure::tests::ready(&base).await.unwrap();
    let last = seen.lock().unwrap().last().cloned().unwrap();
    assert!(last.contains("<InstanceId>r-1</InstanceId><Health><State>Ready</State>"), "{last}");
}

#[tokio::test]
async fn digitalocean_has_its_addresses_in_the_document() {
    let answer = json!({
        "droplet_id": 2756294, "hostname": "sample-droplet", "user_data": USER_DATA, "public_keys": ["ssh-rsa A"], "region": "nyc3",
        "dns": {"nameservers": ["2001:4860:4860::8844", "8.8.8.8"]},
        "interfaces": {"public": [{"mac": "04:01:2A:0F:2A:01", "type": "public",
            "ipv4": {"ip_address": "104.131.20.105", "netmask": "255.255.192.0", "gateway": "104.131.0.1"},
            "ipv6": {"ip_address": "2604:A880:0800:0010:0000:0000:017D:2001", "cidr": 64, "gateway": "2604:A880:0800:0010::1"}}]},
    });
    let (base, _) = serve(vec![page("GET /metadata/v1.json", answer.to_string())]).await;
    let data = Cloud::DigitalOcean.fetch_from(&base).await.unwrap();
    assert_eq!(
        (data.instance_id.as_str(), data.user_data.as_slice()),
        ("2756294", USER_DATA.as_bytes())
    );
    let (network, wrong) =
        cloud_config::netplan::convert(&serde_json::from_str(&data.network_config).unwrap());
    assert_eq!(wrong, Vec::<String>::new());
    let eth0 = &network["interfaces"]["eth0"];
    assert_eq!(
        eth0["addresses"],
        json!(["104.131.20.105/18", "2604:A880:0800:0010:0000:0000:017D:2001/64"])
    );
    assert_eq!(
        (&eth0["gateway"], &eth0["match"]),
        (&json!("104.131.0.1"), &json!("mac=04:01:2a:0f:2a:01"))
    );
}

#[tokio::test]
async fn hetzner_answers_in_yaml() {
    let answer = "availability-zone: hel1-dc2\nhostname: my-server\ninstance-id: 42\npublic-keys:\n- ssh-ed25519 AAAA me\nregion: eu-central\n\
                  network-config:\n  version: 1\n  config:\n  - {type: physical, name: eth0, mac_address: '96:00:00:08:19:da', subnets: [{type: dhcp, ipv4: true}]}\n";
    let (base, _) = serve(vec![
        page("GET /hetzner/v1/metadata", answer),
        page("GET /hetzner/v1/userdata", USER_DATA),
    ])
    .await;
    let data = Cloud::Hetzner.fetch_from(&base).await.unwrap();
    assert_eq!(
        (data.instance_id.as_str(), data.user_data.as_slice()),
        ("42", USER_DATA.as_bytes())
    );
    assert!(data.network_config.contains("96:00:00:08:19:da"));
}

#[tokio::test]
async fn openstack_vultr_and_packet() {
    let nova = json!({"uuid": "83679162", "hostname": "test.novalocal", "public_keys": {"mykey": "ssh-rsa A"}, "availability_zone": "nova"});
    let (base, _) = serve(vec![
        page("GET /openstack/latest/meta_data.json", nova.to_string()),
        page("GET /openstack/latest/user_data", USER_DATA),
        ("GET /v1.json", "Metadata-Token: cloudinit", json!({"instance-v2-id": "v-1", "hostname": "v", "public-keys": ["ssh-rsa B"], "region": {"regioncode": "EWR"}}).to_string()),
        page("GET /latest/user-data", USER_DATA),
        page("GET /metadata", json!({"id": "p-1", "hostname": "p", "ssh_keys": ["ssh-rsa C"], "metro": "am"}).to_string()),
        page("GET /userdata", USER_DATA),
    ])
    .await;
    let table = [
        (Cloud::OpenStack, "83679162", "ssh-rsa A"),
        (Cloud::Vultr, "v-1", "ssh-rsa B"),
        (Cloud::Packet, "p-1", "ssh-rsa C"),
    ];
    for (cloud, id, key) in table {
        let data = cloud.fetch_from(&base).await.unwrap();
        assert_eq!(
            (data.instance_id.as_str(), &meta(&data)["public-keys"]),
            (id, &json!([key])),
            "{cloud:?}"
        );
        assert_eq!(data.user_data, USER_DATA.as_bytes(), "{cloud:?}");
    }
}

#[tokio::test]
async fn what_is_no_answer_is_an_error() {
    let (base, _) = serve(vec![page("GET /metadata/v1.json", "<html>")]).await;
    assert!(Cloud::DigitalOcean.fetch_from(&base).await.is_err());
    assert!(Cloud::Hetzner.fetch_from(&base).await.is_err());
}
