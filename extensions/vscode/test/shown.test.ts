import * as assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import * as path from 'node:path';
import type { SessionEvent, Target } from '../src/protocol';
import { rows, type Row } from '../src/targets';
import { duration, requestLine, size, Traffic } from '../src/traffic';

const target = (path: string, more: Partial<Target> = {}): Target => ({ path, containers: ['main'], available: true, ...more });

function shown(targets: Target[], last?: string, fixedSteal = false): string[] {
	const all = rows({ targets, hidden: [], last, namespace: 'shop', context: 'staging', steal: false, fixedSteal });
	return all.map((r: Row) => (r.kind === 'separator' ? `-- ${r.label}` : r.label.replace(/\$\([\w-]+\) /, '')));
}

describe('the list of targets', () => {
	it('has the last one first, then kind by kind, and the switches last', () => {
		assert.deepEqual(shown([target('pod/web-1'), target('statefulset/db'), target('deployment/web')], 'pod/web-1'), [
			'-- Last used', 'pod/web-1', '-- Deployments', 'deployment/web', '-- Stateful sets', 'statefulset/db',
			'-- Without a pod, and switches', 'targetless', 'Switch namespace…', 'Switch context…', 'Incoming: mirror',
		]);
	});
	it('has what cannot be chosen after what can, with the reason', () => {
		const all = rows({ targets: [target('pod/a', { available: false, reason: 'it has ended' }), target('pod/b')], hidden: [], namespace: '', context: '', steal: false, fixedSteal: true });
		assert.deepEqual(all.slice(1, 3).map((r) => (r.kind === 'target' ? [r.path, r.available, r.description] : r)), [['pod/b', true, ''], ['pod/a', false, 'it has ended']]);
	});
	it('says what the user may not list', () => {
		const all = rows({ targets: [target('pod/b')], hidden: ['deployments', 'statefulsets'], namespace: '', context: '', steal: false, fixedSteal: true });
		assert.ok(all.some((r) => r.kind === 'separator' && r.label.endsWith('(you may not list deployments and statefulsets)')));
	});
	it('has the other containers of a pod', () => {
		assert.ok(shown([target('pod/a', { containers: ['app', 'proxy'] })]).includes('pod/a/container/proxy'));
	});
	it('has the target of before first, where it was none', () => {
		assert.deepEqual(shown([target('pod/a')], 'targetless').slice(0, 2), ['-- Last used', 'targetless']);
	});
	it('lets nobody switch what the configuration says', () => {
		assert.ok(!shown([], undefined, true).some((l) => l.startsWith('Incoming')));
	});
	it('is made of 2,000 pods within a keystroke', () => {
		const many = Array.from({ length: 2000 }, (_, i) => target(`pod/p-${i}`));
		assert.equal(shown(many).filter((l) => l.startsWith('pod/')).length, 2000);
	});
});

describe('what a session\'s events say', () => {
	const wire = JSON.parse(readFileSync(path.join(process.cwd(), '../../testdata/wire/ide.json'), 'utf8')) as Record<string, SessionEvent>;
	const event = (kind: string): SessionEvent => {
		const e = wire[`session/event ${kind}`];
		assert.ok(e, `no example of ${kind}`);
		return e;
	};
	it('is read as the daemon writes it', () => {
		const t = new Traffic();
		for (const kind of ['request', 'response', 'connection', 'outgoing', 'file']) assert.ok(t.take(event(kind)), kind);
		assert.deepEqual(requestLine([...t.requests.values()][0]!), { label: 'GET /items?all', description: 'no answer · 101 ms · 10.1.2.3:4711' });
		assert.equal([...t.connections.values()][0]!.open, true);
		assert.equal([...t.outgoing.values()][0]!.error, 'ECONNREFUSED');
		assert.equal([...t.files.values()][0]!.count, 3);
		t.take(event('file'));
		assert.equal([...t.files.values()][0]!.count, 6);
		t.clear();
		assert.equal(t.requests.size, 0);
	});
	it('tells which ports and processes are in which state', () => {
		const t = new Traffic();
		const e = (kind: string, more: Partial<SessionEvent> = {}) => t.take({ session: 's', time: '', kind, ...more });
		e('launched');
		e('taken', { port: 8080 });
		e('waiting', { port: 8080 });
		e('stopped', { pid: 7 });
		assert.deepEqual([t.launchers, t.ports.get(8080), [...t.stopped]], [1, { mirror: false, waiting: true }, [7]]);
		e('givenBack', { port: 8080 });
		e('exited', { pid: 7 });
		e('left');
		assert.deepEqual([t.launchers, t.ports.size, t.stopped.size], [0, 0, 0]);
		assert.equal(e('what comes with another version'), false);
	});
	it('tells what a port is taken for, and whether its one request has come', () => {
		const t = new Traffic();
		assert.ok(t.take(event('taken')) && t.take(event('caught')));
		assert.deepEqual([t.ports.get(8080)?.filter, t.once], ['header ^x-user: alice$', 'caught']);
		t.take({ ...event('caught'), kind: 'armed' });
		assert.equal(t.once, 'armed');
	});
	it('is forgotten when there is too much of it', () => {
		const t = new Traffic();
		for (let id = 0; id < 1000; id++) t.take({ session: 's', time: '', kind: 'request', request: { id } });
		assert.deepEqual([t.requests.size, t.requests.has(999), t.requests.has(0)], [200, true, false]);
	});
});

describe('figures', () => {
	it('are short', () => {
		assert.deepEqual([0.5, 12.4, 950, 61_000].map(duration), ['0.5 ms', '12 ms', '950 ms', '61.0 s']);
		assert.deepEqual([0, 9999, 20_480, 50 << 20].map(size), ['0 B', '9999 B', '20 KiB', '50 MiB']);
	});
});
