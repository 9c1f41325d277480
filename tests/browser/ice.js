// One of two WebRTC peers that may use relayed candidates only; signals go through the test, by POST and poll.
// What it is told stands behind the # of its address, as JSON: name, other, offers, server, user, pass, count.

const told = JSON.parse(decodeURIComponent(location.hash.slice(1)));
const post = (path, body) => fetch(path, { method: "POST", body: JSON.stringify(body) });
const tell = (what, more = {}) => {
  document.getElementById("log").textContent += `${what} ${JSON.stringify(more)}\n`;
  return post("/told", { what, name: told.name, ...more });
};
const signal = (more) => post(`/signal/${told.other}`, more);

const peer = new RTCPeerConnection({
  iceServers: [{ urls: told.server, username: told.user, credential: told.pass }],
  iceTransportPolicy: "relay",
});
peer.onicecandidate = ({ candidate }) => candidate && signal({ candidate });
peer.onicecandidateerror = ({ errorCode, errorText }) => tell("trouble", { errorCode, errorText });

let heard = 0;
function talk(channel) {
  channel.onmessage = async ({ data }) => {
    if (told.offers) {
      heard += data === `pong ${heard}`;
      if (heard === told.count) await tell("heard", { heard, ...(await kinds()) });
      else channel.send(`ping ${heard}`);
    } else {
      channel.send(data.replace("ping", "pong"));
    }
  };
  channel.onopen = () => told.offers && channel.send("ping 0");
}

async function kinds() { // of the pair that carries it, and what the client speaks to its TURN server
  const stats = await peer.getStats();
  for (const pair of stats.values()) {
    if (pair.type !== "candidate-pair" || !pair.nominated) continue;
    const local = stats.get(pair.localCandidateId), remote = stats.get(pair.remoteCandidateId);
    return { local: local.candidateType, remote: remote.candidateType, protocol: local.relayProtocol };
  }
  return {};
}

async function take({ description, candidate }) {
  if (candidate) return peer.addIceCandidate(candidate);
  await peer.setRemoteDescription(description);
  if (description.type === "offer") {
    await peer.setLocalDescription();
    await signal({ description: peer.localDescription });
  }
}

async function run() {
  if (told.offers) {
    talk(peer.createDataChannel("talk", { ordered: false, maxRetransmits: 3 }));
    await peer.setLocalDescription();
    await signal({ description: peer.localDescription });
  } else {
    peer.ondatachannel = ({ channel }) => talk(channel);
  }
  for (;;) { // each answer is the next signal for us
    const answer = await fetch(`/signal/${told.name}`);
    if (answer.status === 200) await take(await answer.json());
  }
}

run().catch((error) => tell("failed", { error: String(error) }));
