// A namespace of the test cluster with a sample shop of its own.

import { execFile, execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import * as path from 'node:path';
import { promisify } from 'node:util';

const root = path.join(import.meta.dirname, '../../../..');
const run = promisify(execFile);
const patience = 60_000;

/** What the shop's web answers, and the workspaces' programs in its place. */
export interface Answer {
	readonly copy: string;
	readonly host: string;
	readonly greeting: string;
	readonly config: string;
	readonly path: string;
}

export class Shop {
	readonly namespace: string;
	/** A kubeconfig whose namespace is the shop's. */
	readonly kubeconfig: string;

	private constructor(namespace: string, kubeconfig: string) {
		this.namespace = namespace;
		this.kubeconfig = kubeconfig;
	}

	/** Deploys web, its Service and configuration, and a client; dir is for the kubeconfig. */
	static open(dir: string): Shop {
		const namespace = 'vscode-' + randomBytes(4).toString('hex');
		const kubeconfig = path.join(dir, 'kubeconfig');
		const original = process.env.MIRRORD_TEST_KUBECONFIG ?? path.join(root, '.cluster/kubeconfig');
		if (!fs.existsSync(original)) {
			throw new Error(`no ${original}: ./task shop starts the test cluster`);
		}
		fs.copyFileSync(original, kubeconfig);
		const shop = new Shop(namespace, kubeconfig);
		const all = fs.readFileSync(path.join(root, 'testdata/apps/shop/shop.yaml'), 'utf8').split(/^---$/m);
		const parts = all.filter(p => !p.includes('name: inventory'))
			.map(p => p.replaceAll('namespace: shop', `namespace: ${namespace}`))
			.map(p => p.includes('kind: Namespace') ? p.replace('name: shop', `name: ${namespace}`) : p)
			.map(p => p.replace('args: [web, -copy=cluster]', 'args: [web, -copy=cluster, "-inventory=http://127.0.0.1:9/"]'));
		shop.kubectlSync(['apply', '-f', '-'], parts.join('---\n'));
		shop.kubectlSync(['config', 'set-context', '--current', '--namespace', namespace]);
		shop.kubectlSync(['rollout', 'status', 'deployment/web', '--timeout=60s']);
		shop.kubectlSync(['wait', '--for=condition=Ready', 'pod/client', '--timeout=60s']);
		return shop;
	}

	private get kubectlPath(): string {
		return path.join(root, '.cluster/kubectl');
	}

	private kubectlSync(args: readonly string[], input?: string): string {
		return execFileSync(this.kubectlPath, ['--kubeconfig', this.kubeconfig, ...args], { input, timeout: patience }).toString();
	}

	async kubectl(...args: string[]): Promise<string> {
		return (await run(this.kubectlPath, ['--kubeconfig', this.kubeconfig, ...args], { timeout: patience, maxBuffer: 16 << 20 })).stdout;
	}

	async apply(manifest: string): Promise<void> {
		const child = run(this.kubectlPath, ['--kubeconfig', this.kubeconfig, 'apply', '-f', '-'], { timeout: 4 * patience });
		child.child.stdin?.end(manifest);
		await child;
	}

	/** Asks web from the client pod, through the Service, as JSON. */
	ask(where: string): Promise<Answer> {
		const answer = this.get(where);
		answer.catch(() => undefined); // a scenario that has failed does not wait for it
		return answer;
	}

	private async get(where: string): Promise<Answer> {
		const out = await this.kubectl('exec', 'client', '--', '/shop', 'get', '-timeout=50s', 'http://web' + where);
		const line = out.split('\n').find(l => l.includes('{'));
		if (line === undefined) {
			throw new Error(`the answer to ${where} is ${out}`);
		}
		return JSON.parse(line.slice(line.indexOf('{'))) as Answer;
	}

	async webPod(): Promise<string> {
		return (await this.kubectl('get', 'pod', '-l', 'app=web', '-o', 'jsonpath={.items[0].metadata.name}')).trim();
	}

	/** The agents' pods. */
	async agents(): Promise<string[]> {
		return (await this.kubectl('get', 'pod', '-l', 'app.kubernetes.io/name=mirrord-agent', '-o', 'jsonpath={.items[*].metadata.name}')).split(' ').filter(Boolean);
	}

	close(): void {
		this.kubectlSync(['delete', 'namespace', this.namespace, '--wait=false']);
	}
}
