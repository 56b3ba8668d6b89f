import * as vscode from 'vscode';
import type { Daemon } from './daemon';
import type { Choice, Target, Verified } from './protocol';
import type { Chosen, Settings } from './settings';
import { rows, type Row } from './targets';

export interface Picked extends Chosen {
	steal: boolean;
}

type Item = vscode.QuickPickItem & { row: Row };

const redraw = 150; // ms between two changes of the list while targets come in

/** What a list of targets is for. */
export interface Question {
	choice: Choice;
	said: Verified; // by the configuration, which goes before what is remembered
	why: string; // for the user
	token?: vscode.CancellationToken; // whoever asked has given up
}

/** Lets the user choose a target; undefined: they did not. */
export async function pickTarget(daemon: Daemon, settings: Settings, q: Question, fail: (e: unknown) => void): Promise<Picked | undefined> {
	const overrides = { ...q.choice.overrides };
	if (!q.said.namespace) overrides.namespace ??= settings.namespace;
	if (!q.said.context) overrides.context ??= settings.context;
	for (;;) {
		const choice = { ...q.choice, overrides };
		const answer = await list(daemon, settings, { ...q, choice }, fail);
		if (!answer || q.token?.isCancellationRequested) return undefined;
		switch (answer.kind) {
			case 'target': {
				await settings.setLastTarget(answer.path);
				const { namespace, context } = overrides;
				return { target: answer.path, steal: settings.steal && !q.said.incoming, ...(namespace ? { namespace } : {}), ...(context ? { context } : {}) };
			}
			case 'incoming':
				await settings.setSteal(!settings.steal);
				break;
			case 'namespace': {
				const n = await pickOne('mirrord: switch namespace', 'Namespace of the target', async () => {
					const r = await daemon.namespaces(choice);
					return { current: r.current, all: r.namespaces };
				}, fail, true);
				if (!n) break;
				overrides.namespace = n;
				if (!q.said.namespace) await settings.setNamespace(n);
				break;
			}
			case 'context': {
				const c = await pickOne('mirrord: switch context', 'Context of the kubeconfig', async () => {
					const r = await daemon.contexts(choice);
					return { current: r.current ?? '', all: r.contexts };
				}, fail, false);
				if (!c || c === overrides.context) break;
				overrides.context = c;
				overrides.namespace = q.choice.overrides.namespace; // else the new context's own
				if (!q.said.context) {
					await settings.setContext(c);
					await settings.setNamespace(undefined);
				}
				break;
			}
		}
	}
}

type Answer = { kind: 'target'; path: string } | { kind: 'namespace' | 'context' | 'incoming' };

/** Shows the targets as they come. */
async function list(daemon: Daemon, settings: Settings, { choice, said, why, token }: Question, fail: (e: unknown) => void): Promise<Answer | undefined> {
	const pick = vscode.window.createQuickPick<Item>();
	const toNamespace: vscode.QuickInputButton = { iconPath: new vscode.ThemeIcon('layers'), tooltip: 'Switch namespace' };
	const toContext: vscode.QuickInputButton = { iconPath: new vscode.ThemeIcon('server-environment'), tooltip: 'Switch context' };
	const again: vscode.QuickInputButton = { iconPath: new vscode.ThemeIcon('refresh'), tooltip: 'Look again' };
	pick.title = 'mirrord: choose a target';
	pick.buttons = [toNamespace, toContext, again];
	pick.matchOnDescription = true;
	pick.ignoreFocusOut = true;
	pick.keepScrollPosition = true;
	let namespace = choice.overrides.namespace ?? '';
	let context = choice.overrides.context ?? '';
	let targets: Target[] = [];
	let hidden: string[] = [];
	let loading = new vscode.CancellationTokenSource(); // of the latest load

	const show = () => {
		const active = pick.activeItems[0]?.row;
		pick.placeholder = `${why}: type to filter${namespace && ` · namespace ${namespace}`}${context && ` · context ${context}`}`;
		pick.items = rows({ targets, hidden, last: settings.lastTarget, namespace, context, steal: settings.steal, fixedSteal: said.incoming !== '' }).map(item);
		const same = active?.kind === 'target' && pick.items.find((i) => i.row.kind === 'target' && i.row.path === active.path);
		if (same) pick.activeItems = [same];
	};
	let timer: NodeJS.Timeout | undefined;
	const soon = () => { timer ??= setTimeout(() => { timer = undefined; show(); }, redraw); };

	const load = async () => {
		loading.cancel();
		const mine = loading = new vscode.CancellationTokenSource();
		const found: Target[] = targets = [];
		pick.busy = true;
		const contexts = daemon.contexts(choice, mine.token).then((c) => { context ||= c.current ?? ''; soon(); }, () => {});
		try {
			const all = await daemon.targets(choice, (part) => {
				found.push(...part);
				soon();
			}, mine.token);
			await contexts;
			if (mine.token.isCancellationRequested) return;
			({ namespace, targets, hidden = [] } = all);
		} catch (e) {
			if (mine.token.isCancellationRequested) return;
			fail(e); // the switches stay, which may be the way out
		} finally {
			mine.dispose();
		}
		clearTimeout(timer);
		timer = undefined;
		pick.busy = false;
		show();
	};

	const given = token?.onCancellationRequested(() => pick.hide());
	try {
		return await new Promise<Answer | undefined>((resolve) => {
			pick.onDidAccept(() => {
				const row = pick.selectedItems[0]?.row;
				if (!row || row.kind === 'separator') return;
				if (row.kind !== 'target') return resolve({ kind: row.kind });
				if (row.available) return resolve({ kind: 'target', path: row.path });
				pick.placeholder = `${row.path} cannot be a target now: ${row.description}`;
			});
			pick.onDidTriggerButton((b) => (b === again ? void load() : resolve({ kind: b === toNamespace ? 'namespace' : 'context' })));
			pick.onDidHide(() => resolve(undefined));
			show();
			pick.show();
			void load();
		});
	} finally {
		given?.dispose();
		loading.cancel();
		clearTimeout(timer);
		pick.dispose();
	}
}

function item(row: Row): Item {
	if (row.kind === 'separator') return { label: row.label, kind: vscode.QuickPickItemKind.Separator, row };
	return { label: row.label, description: row.description, row };
}

/** Lets the user choose a name; free: or type another. */
async function pickOne(
	title: string, placeholder: string, load: () => Promise<{ current: string; all: string[] }>, fail: (e: unknown) => void, free: boolean,
): Promise<string | undefined> {
	const pick = vscode.window.createQuickPick();
	pick.title = title;
	pick.placeholder = placeholder;
	pick.busy = true;
	pick.ignoreFocusOut = true;
	try {
		return await new Promise<string | undefined>((resolve) => {
			pick.onDidAccept(() => resolve(pick.selectedItems[0]?.label ?? (free && pick.value.trim() ? pick.value.trim() : undefined)));
			pick.onDidHide(() => resolve(undefined));
			pick.show();
			load().then(({ current, all }) => {
				pick.items = [...all.filter((n) => n === current), ...all.filter((n) => n !== current)]
					.map((n) => (n === current ? { label: n, description: 'current' } : { label: n }));
			}, (e: unknown) => {
				if (free) pick.placeholder = `${placeholder}: type its name (${e instanceof Error ? e.message : String(e)})`;
				else { fail(e); resolve(undefined); }
			}).finally(() => { pick.busy = false; });
		});
	} finally {
		pick.dispose();
	}
}
