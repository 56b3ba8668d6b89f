import * as vscode from 'vscode';
import { DaemonError, type Daemon } from './daemon';
import { configFile, environment, merge, ownType, type Launch } from './launch';
import type { Notifier } from './notify';
import { pickTarget } from './picker';
import { code, type Choice, type Client, type Overrides, type SessionStart, type Verified } from './protocol';
import type { Running, Sessions } from './sessions';
import type { Settings } from './settings';
import { targetless } from './targets';

/** How long a start may take, in ms, without a word. */
const quick = 500;

/** Who asks for a session. */
export interface Asker {
	key: string; // the same for each run of one launch configuration
	name: string; // for the user
	client: Client;
	configFile?: string;
	target?: string; // that it names itself
	namespace?: string;
}

/** What is wrong in a configuration file, and where. */
class ConfigError extends DaemonError {
	constructor(message: string, readonly file: string | undefined, readonly line: number) { super(code.config, message); }
}

/** Chooses a target and starts a session, as a launch, a task or a terminal needs it. */
export class Starter {
	private turn: Promise<unknown> = Promise.resolve(); // launches of a compound ask one after the other

	constructor(
		private readonly daemon: Daemon, private readonly settings: Settings,
		private readonly sessions: Sessions, private readonly notify: Notifier,
		private readonly places: string[], // of the editor and its extensions, parts of which run in debuggees
	) {}

	asker(c: Launch, folder: vscode.WorkspaceFolder | undefined): Asker {
		const own = c.type === ownType;
		return {
			key: `${folder?.uri.toString() ?? ''}#${c.type}#${c.name}`,
			name: c.name,
			client: this.client(folder, environment(c)),
			configFile: configFile(c),
			target: own ? str(c['target']) : undefined,
			namespace: own ? str(c['namespace']) : undefined,
		};
	}

	/** The client of a folder, else of the one that the user is in. */
	client(folder = activeFolder(), own: Record<string, string | null> = {}): Client {
		return { dir: folder?.uri.fsPath ?? '/', env: merge(process.env, own), local: this.places };
	}

	choice(a: Pick<Asker, 'client' | 'configFile' | 'target' | 'namespace'>): Choice {
		const { target, namespace } = a;
		const { kubeconfig } = this.settings;
		return { client: a.client, configFile: a.configFile ?? this.settings.configFile, overrides: said({ kubeconfig, target, namespace }) };
	}

	/** undefined: the user did not choose, or was told what is wrong. */
	async session(a: Asker, token?: vscode.CancellationToken): Promise<Running | undefined> {
		const before = this.turn;
		let done = () => {};
		this.turn = new Promise<void>((resolve) => { done = resolve; });
		let choice: Choice | undefined;
		try {
			await before;
			choice = await this.choose(a, token);
		} catch (e) {
			this.fail(e);
		} finally {
			done();
		}
		if (!choice || token?.isCancellationRequested) return undefined;
		return this.start(a, { ...choice, tied: true }, token);
	}

	/** Starts a session. Its progress shows where there is something to wait for: a flash would be of no use, and hold the window up. */
	private async start(a: Asker, p: SessionStart, token?: vscode.CancellationToken): Promise<Running | undefined> {
		const cancel = new vscode.CancellationTokenSource();
		const heard = [token?.onCancellationRequested(() => cancel.cancel())];
		let message = `connecting to ${p.overrides.target ?? 'the target'}`;
		let report = (m: string) => { message = m; };
		const started = this.sessions.start(a.key, p, (m) => report(m), cancel.token);
		const shown = setTimeout(() => void vscode.window.withProgress(
			{ location: vscode.ProgressLocation.Notification, title: `mirrord: ${a.name}`, cancellable: true },
			async (progress, click) => {
				heard.push(click.onCancellationRequested(() => cancel.cancel()));
				report = (m) => progress.report({ message: m });
				report(message);
				await started.catch(() => undefined);
			},
		), quick);
		try {
			return await started;
		} catch (e) {
			this.fail(e);
			return undefined;
		} finally {
			clearTimeout(shown);
			heard.forEach((h) => h?.dispose());
			cancel.dispose();
		}
	}

	/** Lets the user choose the target of the launches to come. */
	async chooseForLater(): Promise<void> {
		const choice = this.choice({ client: this.client() });
		const q = { choice, said: await this.verified(choice), why: 'For the launches to come' };
		const picked = await pickTarget(this.daemon, this.settings, q, (e) => this.fail(e));
		if (!picked) return;
		const { target, namespace, context } = picked;
		await this.settings.setChosen({ target, namespace, context });
	}

	/** Tells the user what has gone wrong, unless they have cancelled it; nobody waits until they have read it. */
	fail(e: unknown): void {
		if (e instanceof DaemonError && e.cancelled) return;
		this.sessions.fail(e instanceof Error ? e.message : String(e));
		const open = 'Open Configuration';
		const kind = `error ${e instanceof DaemonError ? e.code : 0}`;
		void this.notify.error(kind, e, ...(e instanceof ConfigError && e.file ? [open] : [])).then(async (chosen) => {
			if (chosen !== open || !(e instanceof ConfigError) || !e.file) return;
			const at = new vscode.Position(Math.max(0, e.line - 1), 0);
			await vscode.window.showTextDocument(vscode.Uri.file(e.file), { selection: new vscode.Range(at, at) });
		});
	}

	private async choose(a: Asker, token?: vscode.CancellationToken): Promise<Choice | undefined> {
		if (token?.isCancellationRequested) return undefined;
		const choice = this.choice(a);
		const v = await this.verified(choice, token);
		const { chosen } = this.settings;
		const steal = this.settings.steal && !v.incoming;
		if (a.target) return adding(choice, { steal });
		if (chosen) return adding(choice, { ...chosen, steal });
		if (v.target) return adding(choice, { steal: steal && v.target !== targetless });
		const picked = await pickTarget(this.daemon, this.settings, { choice, said: v, why: a.name, token }, (e) => this.fail(e));
		return picked && adding(choice, { ...picked });
	}

	/** What the configuration says; an error if it is wrong. */
	private async verified(choice: Choice, token?: vscode.CancellationToken): Promise<Verified> {
		const v = await this.daemon.verify(choice, token);
		const wrong = v.problems.find((p) => !p.warning);
		if (!wrong) return v;
		const at = wrong.line > 0 ? `${wrong.file}:${wrong.line}:${wrong.column}: ` : '';
		throw new ConfigError(`${at}${wrong.key ? `${wrong.key}: ` : ''}${wrong.message}`, v.configFile, wrong.line);
	}
}

/** The folder of the editor in front, else the first one. */
export function activeFolder(): vscode.WorkspaceFolder | undefined {
	const uri = vscode.window.activeTextEditor?.document.uri;
	return (uri && vscode.workspace.getWorkspaceFolder(uri)) ?? vscode.workspace.workspaceFolders?.[0];
}

function str(v: unknown): string | undefined { return typeof v === 'string' && v !== '' ? v : undefined; }

/** A choice with more said. Nobody's connections can be stolen where there is no pod. */
function adding(c: Choice, more: Overrides): Choice {
	const overrides = said({ ...c.overrides, ...said(more) });
	if (overrides.target === targetless) delete overrides.steal;
	return { ...c, overrides };
}

/** What is said of overrides: false and nothing are the same. */
function said(o: Overrides): Overrides { return Object.fromEntries(Object.entries(o).filter(([, v]) => v)) as Overrides; }
